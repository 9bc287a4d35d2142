"""`check_cut` refuses wrong slices, attributes and shapes, and says that it did not compare the function."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from tests.zoo_graphs import understood
from torch import nn

import sartor
from sartor.errors import NothingToDo, ProofFailed
from sartor.surgery import check_cut, cut
from sartor.testing.mutations import KINDS, mutated
from sartor.testing.plans import halves
from sartor.testing.zoo import cases
from sartor.types import Plan

NAMES = [c.name for c in cases(without=("hard",)) if c.name != "bilinear"]  # its operator has no rule


@pytest.mark.parametrize("name", NAMES)
def test_a_right_cut_passes_and_its_function_counts_as_not_compared(name: str) -> None:
    model, _, graph = understood(name)
    plan = halves(graph)
    verdict = check_cut(model, graph, plan, cut(model, graph, plan))
    assert verdict.status == "not comparable" and not verdict.passed and verdict.tensors > 0
    assert {n for n, _ in verdict.left_out} == {n for n in plan.keep if len(plan.keep[n]) < graph.groups[n].units}
    assert all("function was not compared" in why for _, why in verdict.left_out) and not verdict.examples


@pytest.mark.parametrize("name", NAMES)
def test_faults_are_refused(name: str) -> None:
    model, _, graph = understood(name)
    resolved = graph.resolve(halves(graph))
    network = cut(model, graph, resolved)
    for kind in KINDS:
        mutant = mutated(model, resolved, network, kind, random.Random(f"{name} {kind}"))
        with pytest.raises(ProofFailed):
            check_cut(model, graph, resolved, mutant.network)
            pytest.fail(f"not refused: {mutant.what}")


class Doubles(nn.Module):
    """Its width is also a number in a closure, which no attribute shows."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, width), nn.Linear(width, 4)
        self.wide = lambda x: x.expand(1, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.two(self.wide(self.one(x)))


def test_a_forward_that_would_give_another_shape_is_refused() -> None:
    model, x = Doubles().eval(), torch.randn(1, 4)
    graph = sartor.trace(model, x)
    resolved = graph.resolve(Plan({"one": (0, 1, 2)}, "test", graph.fingerprint))
    network = copy.deepcopy(model)
    for layer, name in ((network.one, "one"), (network.two, "two")):
        for key, t in list(layer.named_parameters()):
            kept = resolved.slices.get(f"{name}.{key}", {})
            small = t.detach()
            for d, index in kept.items():
                small = small.index_select(d, index)
            setattr(layer, key, nn.Parameter(small))
    network.one.out_features = network.two.in_features = 3
    with pytest.raises(ProofFailed, match="does not run as predicted"):
        check_cut(model, graph, resolved, network)


def test_a_plan_that_keeps_everything_has_nothing_to_check() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)).eval()
    graph = sartor.trace(model, torch.randn(2, 4))
    with pytest.raises(NothingToDo):
        check_cut(model, graph, Plan({}, "test", graph.fingerprint), model)
