"""The sliced form of a plan equals the masked one: outputs, gradients of the full weights, buffers."""

import pytest
import torch
from torch import nn

from sartor.errors import CannotCut
from sartor.seed import seeded
from sartor.sparse.subnet import Subnet
from sartor.sparse.unit_masks import UnitMasks
from sartor.structure import trace
from sartor.structure.example import call, tensors
from sartor.surgery import probe
from sartor.testing.zoo import ZOO
from sartor.types import Plan


def half(graph):
    """Every second unit of every group that no operator mixes and no tie binds."""
    tied = {n for tie in graph.ties for n in tie}
    able = {n: g for n, g in graph.groups.items() if n not in tied and g.units > 1 and not g.mixes}
    return Plan({n: tuple(range(0, g.units, 2)) for n, g in able.items()}, "half", graph.fingerprint)


def passes(model, network, example):
    """(outputs, gradients, buffers) of one forward and backward in training mode with fixed random numbers."""
    model.train()
    for m in model.modules():
        if "Dropout" in type(m).__name__:  # alpha dropout is no nn.Dropout
            m.p = 0.0
    with seeded(0):
        outputs = [t for t in tensors(call(network, example)) if t.is_floating_point() and t.requires_grad]
    sum(t.double().square().sum() for t in outputs).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return outputs, gradients, dict(model.named_buffers())


@pytest.mark.parametrize("name", list(ZOO))
def test_sliced_equals_masked_in_training_mode(name):
    case = ZOO[name].value
    masked, full = case.build(), case.build()
    graph = probe(full, trace(full, case.example()))
    plan = half(graph)
    if not plan.keep:
        pytest.skip("nothing to cut that is exact")
    if not any(p.requires_grad for p in full.parameters()):
        pytest.skip("nothing to train")
    masks = [UnitMasks(model, graph) for model in (masked, full)]
    for m in masks:
        m.adopt(plan)
    try:
        subnet = Subnet(full, graph, plan)
    except CannotCut as e:
        assert "rewritten" in str(e)
        return
    expected, gradients, buffers = passes(masked, masked, case.example())
    outputs, mine, own = passes(full, subnet, case.example())
    for a, b in zip(outputs, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    if not all(bool(g.isfinite().all()) for g in gradients.values()):
        assert all(bool(g.isfinite().all()) for g in mine.values())  # 0 * inf, as of a square root at a removed unit
        return
    live = {n: None for n in gradients}
    masks[0].mask_gradients_()
    masks[1].mask_gradients_()
    for n in live:
        got = mine.get(n)
        torch.testing.assert_close(
            torch.zeros_like(gradients[n]) if got is None else got, gradients[n], rtol=1e-3, atol=1e-4
        )
    resolved = graph.resolve(plan)
    for n, b in buffers.items():
        kept = resolved.slices.get(n, {})
        x, y = own[n], b
        for d, i in kept.items():
            x, y = x.index_select(d, i), y.index_select(d, i)
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def test_gradients_reach_the_full_weights_and_are_zero_at_removed_units():
    net = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = trace(net, torch.randn(1, 3))
    plan = Plan({next(iter(graph.groups)): (0, 2)}, "test", graph.fingerprint)
    UnitMasks(net, graph).adopt(plan)
    subnet = Subnet(net, graph, plan)
    assert not list(subnet.parameters()) and not list(subnet.modules())[1:]
    subnet(torch.randn(5, 3)).sum().backward()
    dead = torch.tensor([1, 3, 4, 5])
    assert not net[0].weight.grad[dead].any() and not net[2].weight.grad[:, dead].any() and net[2].weight.grad.any()


def test_a_plan_whose_units_an_operator_mixes_is_refused_with_the_reason():
    net = nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2))
    graph = trace(net, torch.randn(1, 3))
    plan = Plan({next(iter(graph.groups)): (0, 2)}, "test", graph.fingerprint)
    with pytest.raises(CannotCut, match="mixes"):
        Subnet(net, graph, plan)
