"""Masks of units on full weights: what is zero, what comes back, and what the optimizer remembers."""

import pytest
import torch
from torch import nn

from sartor.errors import BadInput
from sartor.seed import seeded
from sartor.sparse.unit_masks import UnitMasks
from sartor.structure import trace
from sartor.surgery import silence
from sartor.testing.zoo import ZOO
from sartor.types import Plan


def half(graph):
    """Every second unit of every group; tied groups have equal sizes only where they keep equal counts."""
    tied = {n for tie in graph.ties for n in tie}
    keep = {n: tuple(range(0, g.units, 2)) for n, g in graph.groups.items() if n not in tied and g.units > 1}
    return Plan(keep, "half", graph.fingerprint)


def small():
    with seeded(0):
        net = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(6, 3))
        net[1].weight.data.uniform_(0.5, 1.5)
    return net, trace(net, torch.randn(1, 2, 3, 3))


def plan_of(graph, *kept):
    return Plan({next(iter(graph.groups)): kept}, "test", graph.fingerprint)


@pytest.mark.parametrize("name", list(ZOO))
def test_masked_weights_are_those_of_the_zero_masked_original(name):
    case = ZOO[name].value
    model, other = case.build(), case.build()
    graph = trace(model, case.example())
    plan = half(graph)
    if not plan.keep:
        pytest.skip("nothing but tied groups")
    UnitMasks(model, graph).adopt(plan)
    expected = silence(other, graph, plan)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters()))


def test_what_comes_back_has_its_most_recently_used_values():
    net, graph = small()
    masks = UnitMasks(net, graph)
    masks.adopt(plan_of(graph, 0, 1, 2, 3))
    with torch.no_grad():
        net[0].weight[3] = 7.0
        net[1].running_mean[3] = 5.0
    masks.adopt(plan_of(graph, 0, 1, 2))
    assert not net[0].weight[3].any() and not net[1].weight[3] and not net[1].bias[3] and not net[4].weight[:, 3].any()
    with torch.no_grad():
        net[1].running_mean[3] = -1.0  # as a masked forward in training mode leaves it
    masks.adopt(plan_of(graph, 0, 1, 2, 3))
    assert torch.equal(net[0].weight[3], torch.full((2, 3, 3), 7.0)) and net[1].running_mean[3] == 5.0


def test_zero_leaves_the_outputs_as_they_were_and_lets_gradients_in():
    net, graph = small()
    masks = UnitMasks(net.eval(), graph)
    x = torch.randn(4, 2, 3, 3)
    masks.adopt(plan_of(graph, 0, 1, 2))
    before = net(x)
    masks.adopt(plan_of(graph, 0, 1, 2, 5), "zero")
    assert torch.equal(net(x), before) and net[0].weight[5].any() and not net[4].weight[:, 5].any()
    net(x).square().sum().backward()
    assert net[4].weight.grad[:, 5].any()


def test_rewind_and_reinitialise():
    net, graph = small()
    first = net[0].weight.detach().clone()
    masks = UnitMasks(net, graph)
    masks.remember_first()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    masks.adopt(plan_of(graph, 0, 1, 2))
    masks.adopt(plan_of(graph, 0, 1, 2, 4), "rewind")
    assert torch.equal(net[0].weight[4], first[4]) and torch.equal(net[0].weight[0], first[0] + 1)
    masks.adopt(plan_of(graph, 0, 1, 2, 3, 4), "reinitialise", torch.Generator().manual_seed(0))
    drawn = net[0].weight[3]
    assert drawn.std() > 0 and not torch.equal(drawn, first[3]) and not torch.equal(drawn, first[3] + 1)
    with pytest.raises(BadInput, match="generator"):
        masks.adopt(Plan({}, "all", graph.fingerprint), "reinitialise")


@pytest.mark.parametrize("make", [lambda p: torch.optim.Adam(p, 0.1), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)])
def test_the_state_of_removed_units_is_zero_and_stays_zero(make):
    net, graph = small()
    net[2] = nn.Sigmoid()  # sigmoid(0) is not 0: what reads a removed unit would get gradients
    graph = trace(net, torch.randn(1, 2, 3, 3))
    optimizer = make(net.parameters())
    masks = UnitMasks(net, graph, optimizer)
    x = torch.randn(4, 2, 3, 3)
    for step in range(3):
        net(x).square().sum().backward()
        if step == 1:
            masks.adopt(plan_of(graph, 0, 1, 2))
        masks.mask_gradients_()
        optimizer.step()
        masks.apply_()
        optimizer.zero_grad()
    dead = [(net[0].weight, 0), (net[1].weight, 0), (net[4].weight, 1)]
    for p, d in dead:
        for value in (p, *(v for v in optimizer.state[p].values() if isinstance(v, torch.Tensor) and v.dim())):
            assert not value.index_select(d, torch.tensor([3, 4, 5])).any()
            assert value.index_select(d, torch.tensor([0, 1, 2])).any()


def test_a_state_brings_back_masks_and_memory():
    net, graph = small()
    masks = UnitMasks(net, graph)
    masks.adopt(plan_of(graph, 0, 1))
    other, _ = small()
    other.load_state_dict(net.state_dict())
    again = UnitMasks(other, graph)
    again.load_state_dict(masks.state_dict())
    everything = Plan({}, "all", graph.fingerprint)
    masks.adopt(everything)
    again.adopt(everything)
    assert again.density == masks.density == 1.0
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values()))
