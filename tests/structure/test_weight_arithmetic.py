"""Weights computed from parameters: their roles, and what a criterion reads of them."""

from __future__ import annotations

import pytest
import torch
from tests.zoo_graphs import understood

from sartor.importance import score
from sartor.structure import trace
from sartor.structure.model_copy import named_tensors
from sartor.structure.weight_arithmetic import effective_weights
from sartor.surgery import cut, probe
from sartor.testing.plans import halves

NAMES = ["weight-norm-hooks", "spectral-norm", "weight-standardisation"]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_behind_a_computed_weight_have_its_roles(name):
    graph = understood(name)[2]
    assert len(graph.groups) == 2
    for g in graph.groups.values():
        roles = {(m.tensor, m.dim): m.role for m in g.members}
        assert {"out", "in"} <= set(roles.values()) and "other" not in roles.values()


@pytest.mark.parametrize("name", NAMES)
def test_the_effective_weight_is_the_one_the_layer_uses(name):
    model, example, graph = understood(name)
    found = effective_weights(graph.ops, {n: t.detach() for *_, n, t in named_tensors(model)})
    assert len(found) == (2 if "standard" in name else 3)
    if "standard" not in name:
        with torch.no_grad():
            model(example)
            for layer, weight in zip((model[0], model[2], model[6]), found.values(), strict=True):
                torch.testing.assert_close(weight, layer.weight.detach())


def test_scores_follow_the_effective_weight_and_not_the_length_of_the_direction():
    model, _, graph = understood("weight-norm")
    before = score(graph, model, "l1")
    direction = model[0].parametrizations.weight.original1
    saved = direction.detach().clone()
    try:
        with torch.no_grad():
            direction.mul_(torch.linspace(0.5, 3, 16).view(16, 1))
        after = score(graph, model, "l1")
    finally:
        with torch.no_grad():
            direction.copy_(saved)
    for n in graph.groups:
        torch.testing.assert_close(after[n], before[n], rtol=1e-5, atol=1e-6)


def test_a_fresh_weight_norm_keeps_a_weight_with_history_and_is_cut():
    layers = (torch.nn.utils.weight_norm(torch.nn.Linear(6, 8)), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    model, x = torch.nn.Sequential(*layers).eval(), torch.randn(2, 6)
    assert not model[0].weight.is_leaf
    graph = probe(model, trace(model, x))
    smaller = cut(model, graph, halves(graph))
    assert smaller(x).shape == (2, 3) and smaller[0].weight.shape == (4, 6)
