"""A plan is checked against its graph once, and the result is passed on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from sartor.errors import BadInput
from sartor.structure import Resolved, trace
from sartor.structure.axes import find
from sartor.surgery import apply_edits, edits_for, prove, silence
from sartor.testing.plans import halves

X = torch.randn(4, 6)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3)).eval()


def test_one_cut_and_its_proof_resolve_the_plan_once(monkeypatch: pytest.MonkeyPatch):
    model = net()
    graph = trace(model, X)
    made = []
    initialise = Resolved.__init__

    def counted(self, *args, **kwargs):
        made.append(self)
        initialise(self, *args, **kwargs)

    monkeypatch.setattr(Resolved, "__init__", counted)
    resolved = graph.resolve(halves(graph))
    smaller = apply_edits(model, edits_for(model, graph, resolved))
    assert prove(model, graph, resolved, X, smaller=smaller).status == "exact"
    assert made == [resolved]


def test_a_plan_and_what_it_resolves_to_give_the_same():
    model = net()
    graph = trace(model, X)
    plan = halves(graph)
    resolved = graph.resolve(plan)
    assert graph.resolve(resolved) is resolved
    assert edits_for(model, graph, plan) == edits_for(model, graph, resolved)
    assert prove(model, graph, plan, X) == prove(model, graph, resolved, X)
    silent = [silence(model, graph, p).state_dict() for p in (plan, resolved)]
    assert all(torch.equal(silent[0][n], silent[1][n]) for n in silent[0])
    assert resolved.counts == {find(graph.leaves[n]): len(k) for n, k in plan.keep.items()}
    assert set(resolved.slices) == {"0.weight", "0.bias", "2.weight", "2.bias", "4.weight"}


def test_what_another_graph_resolved_is_checked_again():
    model = net()
    graph = trace(model, X)
    resolved = graph.resolve(halves(graph))
    stricter = replace(graph, ties=(("0", "2"),))
    with pytest.raises(BadInput, match="must keep equal counts"):
        stricter.resolve(resolved)
    again = trace(model, X)
    assert again.resolve(resolved) is not resolved and again.resolve(resolved).plan == resolved.plan
