"""Soft costs: the counted cost at whole numbers, its difference quotients in between."""

import pytest
import torch
from tests.zoo_graphs import understood

from sartor.cost import macs, params, soft_macs, soft_params
from sartor.errors import BadInput, UnknownName
from sartor.testing.zoo import cases

ALL = [c.name for c in cases()]


def drawn(graph, seed):
    generator = torch.Generator().manual_seed(seed)
    return {n: int(torch.randint(1, g.units + 1, (), generator=generator)) for n, g in graph.groups.items()}


@pytest.mark.parametrize("name", ALL)
def test_at_whole_numbers_it_is_the_count(name):
    _, _, graph = understood(name)
    costs = {
        "macs": (soft_macs(graph), lambda c: macs(graph, c)),
        "thop": (soft_macs(graph, convention="thop"), lambda c: macs(graph, c, convention="thop")),
        "params": (soft_params(graph), lambda c: params(graph, c)),
    }
    for seed in range(4):
        counts = drawn(graph, seed) if seed else {}
        widths = {n: torch.tensor(k, dtype=torch.float32) for n, k in counts.items()}
        for label, (soft, exact) in costs.items():
            assert soft(widths).item() == exact(counts), label


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_is_finite_and_no_width_is_free_of_parameters(name):
    """Every group occurs in a parameter, so one more unit always costs parameters; MACs never fall."""
    _, _, graph = understood(name)
    for soft, least in ((soft_macs(graph), 0.0), (soft_params(graph), 1.0)):
        widths = {n: torch.tensor(0.37 * g.units, requires_grad=True) for n, g in graph.groups.items()}
        cost = soft(widths)
        assert cost.dtype == torch.float64 and cost.shape == ()
        if not widths:
            continue
        slopes = torch.autograd.grad(cost, list(widths.values()), materialize_grads=True)
        for slope in slopes:
            assert torch.isfinite(slope) and slope >= least * 0.999


def test_the_gradient_is_the_difference_quotient_also_at_zero():
    _, _, graph = understood("densenet")
    soft = soft_macs(graph)
    widths = {n: torch.tensor(0.3 * g.units, dtype=torch.float64) for n, g in graph.groups.items()}
    first = next(iter(widths))
    for at in (0.0, 2.5):
        w = torch.tensor(at, dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(soft({**widths, first: w}), w)
        up, down = (soft({**widths, first: torch.tensor(at + e, dtype=torch.float64)}) for e in (0.5, -0.5))
        assert slope.item() == pytest.approx((up - down).item(), rel=1e-9)


def test_wrong_widths_are_refused():
    _, _, graph = understood("resnet")
    name = next(iter(graph.groups))
    with pytest.raises(BadInput, match="expected one number as a tensor; got"):
        soft_macs(graph)({name: torch.ones(2)})
    with pytest.raises(UnknownName, match="group"):
        soft_params(graph)({"nothing": torch.tensor(1.0)})
