"""Memory accesses are exact, and guidelines are found where they are violated."""

from __future__ import annotations

import random

import pytest
import torch
from torch import nn

from sartor import count, trace
from sartor.analysis.advice import Limits, advise, whole_access
from sartor.cost.access import LayerShape, layer_shape


def drawn(seed: int) -> tuple[nn.Conv2d, torch.Tensor]:
    r = random.Random(seed)
    groups, kernel = r.choice([1, 1, 2, 4]), r.choice([1, 3, 5])
    inputs, outputs = groups * r.randint(1, 6), groups * r.randint(1, 6)
    conv = nn.Conv2d(inputs, outputs, kernel, r.choice([1, 2]), r.choice([0, 2]), groups=groups, bias=False)
    return conv, torch.randn(1, inputs, r.randint(5, 12), r.randint(5, 12))


@pytest.mark.parametrize("seed", range(50))
def test_the_formulas_are_what_is_counted_by_hand(seed: int) -> None:
    conv, x = drawn(seed)
    graph = trace(conv, x)
    shape = layer_shape(next(op for op in graph.ops if op.kind == "conv"))
    assert shape is not None
    out = conv(x)
    assert shape.macs == count(graph).macs == out.numel() * conv.weight[0].numel()
    assert shape.params == conv.weight.numel() and shape.access == x.numel() + out.numel() + conv.weight.numel()


def test_equal_widths_have_the_least_access_and_no_widths_have_less() -> None:
    """G1: of all pairs of widths with one product."""
    found = {(a, 240 // a): LayerShape(a, 240 // a, read=49, written=49) for a in range(1, 241) if not 240 % a}
    assert len({s.macs for s in found.values()}) == 1
    assert all(s.access >= s.least_access - 1e-9 for s in found.values())
    assert min(found, key=lambda w: found[w].access) in ((15, 16), (16, 15))
    even = LayerShape(16, 16, read=49, written=49)
    assert even.access == pytest.approx(even.least_access)
    macs, hw = even.macs, 49
    assert even.least_access == pytest.approx(2 * (hw * macs) ** 0.5 + macs / hw)


def test_groups_raise_the_access_at_equal_macs() -> None:
    """G2: hw c1 + B g / c1 + B / hw grows with g; here both widths grow with the root of the groups."""
    one, four = LayerShape(16, 16, read=64, written=64), LayerShape(32, 32, groups=4, read=64, written=64)
    assert one.macs == four.macs and whole_access(four) == one.access < four.access


@pytest.mark.parametrize(("shape", "expected"), [
    (LayerShape(32, 32), 1.0), (LayerShape(33, 32), 33 / 64), (LayerShape(8, 4), 8 * 4 / 1024),
    (LayerShape(64, 64, taps=9, groups=64), 9 / 1024),
])  # fmt: skip
def test_utilisation_counts_the_multipliers_with_work(shape: LayerShape, expected: float) -> None:
    assert shape.utilisation(32, 32) == pytest.approx(expected)


class Many(nn.Module):
    """A narrow to wide pointwise layer, a grouped one, and four branches."""

    def __init__(self) -> None:
        super().__init__()
        self.widen, self.grouped = nn.Conv2d(8, 128, 1), nn.Conv2d(128, 128, 3, padding=1, groups=16)
        self.branches = nn.ModuleList(nn.Conv2d(128, 32, 1) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.grouped(torch.relu(self.widen(x))))
        return torch.cat([branch(x) for branch in self.branches], 1)


def test_advice_names_the_layer_and_a_command_that_changes_it() -> None:
    found = advise(trace(Many(), torch.randn(1, 8, 14, 14)), "net.py:net")
    of = {(a.layer, a.guideline): a for a in found.advice}
    widened = of["widen", "G1 equal widths"]
    assert "--cut widen" in widened.command and widened.value > 1.25
    assert ("grouped", "G2 few groups") in of and ("branches.0", "G3 few branches") in of
    assert ("grouped", "array utilisation") in of
    assert [row.layer for row in found.layers] == ["widen", "grouped", *(f"branches.{i}" for i in range(4))]


def test_nothing_is_said_of_a_network_that_follows_the_guidelines() -> None:
    model = nn.Sequential(nn.Conv2d(32, 32, 1), nn.ReLU(), nn.Conv2d(32, 32, 1))
    assert not advise(trace(model, torch.randn(1, 32, 8, 8)), "m", Limits(pointwise=0.5)).advice
