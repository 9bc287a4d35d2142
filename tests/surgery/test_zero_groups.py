"""Zero-invariant groups: units whose parameters have become zero can be cut, and the network computes the same.

Chen et al. 2021, arXiv:2107.07467: groups of parameters "whose zeroing zeroes the output". Training that drives whole
groups to zero relies on it: nothing is repaired or trained after the cut.
"""

import pytest
import torch
from tests.zoo_graphs import understood

from sartor.borrow import borrowed
from sartor.structure.example import call, tensors
from sartor.surgery import cut, silence
from sartor.testing.plans import halves
from sartor.testing.zoo import cases
from sartor.types import Plan

NAMES = [c.name for c in cases(without=("hard",))]
NONE = {  # without groups, or all are mixed: statistics change when units go, see test_cut_equals_silencing
    "bilinear", "channels-first-norm", "weight-norm", "weight-norm-hooks",
}  # fmt: skip


def largest_change(model, example, other):
    """Of all floating-point outputs, relative to the largest of each."""
    with borrowed(model), borrowed(other), torch.no_grad():
        pairs = list(zip(tensors(call(model, example)), tensors(call(other, example)), strict=True))
    assert any(a.dtype.is_floating_point for a, _ in pairs)
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-30)) for a, b in pairs if a.is_floating_point())


def plan_for(graph, share, seed):
    """Random units of every group that no operator mixes."""
    keep = halves(graph, share=share, seed=seed).keep
    return Plan({n: k for n, k in keep.items() if not graph.groups[n].mixes}, "test", graph.fingerprint)


@pytest.mark.parametrize("name", NAMES)
def test_zeroed_units_are_cut_without_a_change(name):
    model, example, graph = understood(name)
    if name in NONE:
        assert not plan_for(graph, 0.5, 0).keep
        return
    plan = plan_for(graph, 0.6, 0)
    zeroed = silence(model, graph, plan)
    assert largest_change(zeroed, example, cut(zeroed, graph, plan)) <= 1e-5


def test_units_that_are_not_quite_zero_show():
    model, example, graph = understood("resnet")
    plan = plan_for(graph, 0.5, 0)
    zeroed = silence(model, graph, plan)
    with torch.no_grad():
        for p in zeroed.parameters():
            p.add_(1e-2)
    assert largest_change(zeroed, example, cut(zeroed, graph, plan)) > 1e-4
