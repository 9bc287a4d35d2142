"""Sensitivity: curves rise and are convex, planted redundancy is taken first, the order within groups stays."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.zoo_graphs import understood
from torch import nn

from sartor.allocate import ALLOCATORS, Cap
from sartor.cost import macs
from sartor.errors import BadInput
from sartor.learn import CurveOptions, sensitivity_scores
from sartor.learn.sensitivity import marginal_losses
from sartor.structure import trace


@given(st.lists(st.floats(0, 10).map(lambda x: round(x, 4)), min_size=1, max_size=6), st.data())
def test_marginal_losses_rise_and_sum_to_the_curve(losses, data):
    gone = sorted(data.draw(st.sets(st.integers(1, 40), min_size=len(losses), max_size=len(losses))))
    units = gone[-1] + 1
    steps = marginal_losses([(0, 0.0), *zip(gone, losses)], units)
    assert steps.shape == (units,) and steps[0] >= 0 and (steps[1:] >= steps[:-1] - 1e-12).all()
    assert steps[: gone[-1]].sum() == pytest.approx(max(losses), abs=1e-9)
    total = 0.0
    for n in range(gone[-1] + 1):  # convex, so never above the measured points
        if n in gone:
            assert total <= max(losses[: gone.index(n) + 1]) + 1e-9
        total += steps[n]


def test_a_convex_curve_is_met_at_its_points():
    steps = marginal_losses([(0, 0.0), (2, 1.0), (4, 4.0), (7, 16.0)], 8)
    assert [steps[:n].sum() for n in (2, 4, 7)] == pytest.approx([1.0, 4.0, 16.0])


def network():
    """Group "0" has four units of sixteen that matter; every unit of group "2" matters."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    with torch.no_grad():
        net[2].weight[:, 4:] *= 0.01
    return net, trace(net, torch.randn(1, 8)), [torch.randn(64, 8), torch.randn(64, 8)]


def order_of(graph):
    return {n: torch.arange(g.units, 0, -1).double() for n, g in graph.groups.items()}


def test_the_group_that_hurts_least_is_cut_most():
    net, graph, inputs = network()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    scores = sensitivity_scores(graph, net, order_of(graph), inputs)
    units = {n: g.units for n, g in graph.groups.items()}
    cap = Cap(lambda c: macs(graph, c), 0.5 * macs(graph), "macs")
    kept = ALLOCATORS["global"].value(scores, [cap], units, floor=0.0)
    counts = {n: len(k) for n, k in kept.items()}
    assert macs(graph, counts) <= 0.5 * macs(graph)
    assert counts["0"] <= 8 and counts.get("2", 16) >= 14
    assert kept["0"] == tuple(range(counts["0"]))
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


@pytest.mark.parametrize("name", ["resnet", "densenet", "plain-attention", "lstm", "convnext", "chunk-gate"])
def test_the_order_within_groups_stays_also_among_equals(name):
    model, example, graph = understood(name)
    generator = torch.Generator().manual_seed(0)
    given_scores = {n: torch.randint(3, (g.units,), generator=generator).double() for n, g in graph.groups.items()}
    found = sensitivity_scores(graph, model, given_scores, [example])
    for n, s in found.items():
        assert s.dtype == torch.float64 and torch.isfinite(s).all() and (s >= 0).all()
        for k in range(1, graph.groups[n].units):
            stays = torch.argsort(given_scores[n], descending=True, stable=True)[:k]
            assert set(torch.argsort(s, descending=True, stable=True)[:k].tolist()) == set(stays.tolist())
        assert len(set(s.tolist())) == len(s)


def test_per_cost_divides_by_the_macs_a_unit_frees():
    net, graph, inputs = network()
    plain, each = (
        sensitivity_scores(graph, net, order_of(graph), inputs, options=CurveOptions(per_cost=e)) for e in (0.0, 1.0)
    )
    freed = {n: macs(graph) - macs(graph, {n: g.units - 1}) for n, g in graph.groups.items()}
    mean = sum(freed.values()) / 2
    for n in plain:
        assert torch.allclose(each[n], plain[n] * mean / freed[n], rtol=1e-6, atol=1e-9)


def test_tied_groups_are_narrowed_together():
    model, example, graph = understood("cifar-resnet-pad")
    assert graph.ties
    found = sensitivity_scores(graph, model, order_of(graph), [example])
    for tie in graph.ties:
        for n in tie[1:]:
            assert torch.equal(found[n], found[tie[0]])


def test_samples_are_a_limit_and_fewer_points_cost_fewer_forwards():
    net, graph, inputs = network()
    calls = []
    net.register_forward_hook(lambda m, a, o: calls.append(len(a[0])))
    sensitivity_scores(graph, net, order_of(graph), inputs, options=CurveOptions(points=(0.5,), samples=80))
    assert calls == [64, 16] * (1 + 2 * len(graph.groups))


def test_what_cannot_be_done_is_said():
    net, graph, inputs = network()
    order = order_of(graph)
    with pytest.raises(BadInput, match="points: expected shares"):
        sensitivity_scores(graph, net, order, inputs, options=CurveOptions(points=(0.5, 1.0)))
    with pytest.raises(BadInput, match="per_cost: expected a number >= 0"):
        sensitivity_scores(graph, net, order, inputs, options=CurveOptions(per_cost=-1.0))
    with pytest.raises(BadInput, match="expected calibration inputs; got none"):
        sensitivity_scores(graph, net, order, [])
    with pytest.raises(BadInput, match="at least one group"):
        sensitivity_scores(graph, net, {}, inputs)
    with pytest.raises(BadInput, match="group '0': expected 16 finite numbers"):
        sensitivity_scores(graph, net, {**order, "0": torch.ones(3)}, inputs)
    with pytest.raises(BadInput, match="outputs are not finite with 4 of 16 units gone"):
        sensitivity_scores(graph, net, order, [inputs[0] * float("nan")])
