"""Cutting units equals zero-masking them, for every network of the zoo and any plan."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.zoo_graphs import understood
from torch import nn

from sartor.errors import NothingToDo
from sartor.structure import trace
from sartor.structure.example import call, tensors, with_batch
from sartor.structure.rules import RULES, lookup
from sartor.surgery import cut, probe, prove, silence
from sartor.surgery.program import Rewritten
from sartor.surgery.proof import difference
from sartor.testing.plans import halves, plans
from sartor.testing.zoo import ZOO, cases
from sartor.types import Plan

NAMES = [c.name for c in cases(without=("hard",))]
NOTHING = {"bilinear"}  # its operator has no rule


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_cutting_equals_silencing(name, data):
    model, example, graph = understood(name)
    if name in NOTHING:
        assert not graph.groups
        return
    proof = prove(model, graph, data.draw(plans(graph)), example)
    assert proof.passed and proof.max_relative_error <= 1e-4


@pytest.mark.parametrize("name", sorted(set(NAMES) - NOTHING))
def test_cut_network_has_the_predicted_shapes_and_trains(name):
    model, example, graph = understood(name)
    plan = halves(graph)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    smaller = cut(model, graph, plan)
    assert isinstance(smaller, type(model))
    shapes = graph.shapes(plan.counts())
    for n, p in smaller.named_parameters():
        assert tuple(p.shape) == shapes[n], n
    assert list(smaller.state_dict()) == list(before)
    for n, t in model.state_dict().items():
        assert torch.equal(t, before[n]), f"the original's {n} was touched"
    smaller.train()
    loss = sum(t.square().mean() for t in tensors(call(smaller, example)) if t.dtype.is_floating_point)
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in smaller.parameters())
    assert any(p.grad is not None for p in smaller.parameters())


def test_the_oracle_sees_a_wrong_cut():
    model, example, graph = understood("resnet")
    plan = halves(graph)
    smaller = cut(model, graph, plan)
    with torch.no_grad():
        next(p for p in smaller.parameters() if p.dim() == 4).mul_(1.01)
    assert difference(model, graph, plan, smaller, example) > 1e-4


def test_a_layer_norm_is_compared_with_statistics_over_survivors():
    model, example, graph = understood("convnext")
    mixed = [n for n, g in graph.groups.items() if g.mixes]
    plan = halves(graph)
    proof = prove(model, graph, plan, example)
    assert mixed and proof.groups == len(graph.groups) and proof.mixing_groups == 0
    with torch.no_grad():
        plain = call(silence(model, graph, plan), example)
        small = call(cut(model, graph, plan), example)
    assert (plain - small).abs().max() > 1e-3  # without the reference of the norm the two differ


def test_a_plan_that_cuts_nothing_raises():
    model, _, graph = understood("resnet")
    whole = Plan({n: tuple(range(g.units)) for n, g in graph.groups.items()}, "test", graph.fingerprint)
    with pytest.raises(NothingToDo):
        cut(model, graph, whole)


def test_a_size_no_attribute_holds_is_written_into_the_forward():
    model, example, graph = understood("view-literals")
    smaller = cut(model, graph, halves(graph))
    assert isinstance(smaller, type(model)) and isinstance(smaller, Rewritten)
    for n in (1, 3):  # other batch sizes than the recorded one
        assert call(smaller, with_batch(example, n)).shape[0] == n


def test_pads_held_in_one_number_become_a_tie():
    _, _, graph = understood("cifar-resnet-pad")
    assert graph.ties and all(len({graph.groups[n].units for n in t}) == 1 for t in graph.ties)


def test_the_same_network_with_closures_has_the_same_groups():
    _, _, with_attribute = understood("cifar-resnet-pad")
    _, _, with_closure = understood("cifar-resnet-closure")
    assert len(with_closure.groups) == len(with_attribute.groups)


ELSEWHERE = {  # rules that no network of the zoo calls, and why
    "grouped_mm": "needs a device with grouped products",
    "deform": "needs torchvision",
    "roi": "needs torchvision",
}


def test_every_rule_is_met_by_the_zoo():
    met = {rule.axes for name in ZOO for op in understood(name)[2].ops if (rule := lookup(op.func))}
    assert {r.axes.__name__ for r in RULES.values() if r.axes not in met} == set(ELSEWHERE)


class Mutating(nn.Module):
    """A forward that keeps tensors on the module."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)
        self.cache = {}

    def forward(self, x):
        self.cache["last"] = self.a(x)
        return self.b(self.cache["last"].relu())


def test_tracing_leaves_no_trace():
    model = Mutating().train()
    model.register_forward_hook(lambda m, a, o: None)
    before = {k: v for k, v in vars(model).items() if k != "cache"}
    x = torch.randn(2, 6)
    graph = probe(model, trace(model, x))
    cut(model, graph, halves(graph))
    assert model.cache == {} and model.training
    assert {k: v for k, v in vars(model).items() if k != "cache"} == before
    assert not model.a._forward_pre_hooks
