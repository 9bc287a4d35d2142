"""Where a forward takes its sizes from: half of an attribute, and attributes of children whose methods it calls."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sartor.structure import trace
from sartor.surgery import cut, edits_for, probe, prove
from sartor.surgery.attributes import Claims
from sartor.surgery.shape_check import check
from sartor.testing.plans import halves, unequal
from sartor.testing.zoo import ZOO
from sartor.types import Plan


class Halves(nn.Module):
    """Splits by half of its width; no attribute holds the half."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.width = width
        self.wide, self.one = nn.Conv2d(3, width, 1), nn.Conv2d(width // 2, 7, 1)
        self.head = nn.Conv2d(7 + width // 2, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.wide(x).split(self.width // 2, 1)
        return self.head(torch.cat([self.one(a).relu(), b], 1))


class Bias(nn.Module):
    """A table of one number for each pair of positions and head; only its method is called."""

    def __init__(self, heads: int, positions: int) -> None:
        super().__init__()
        self.heads, self.positions = heads, positions
        self.table = nn.Parameter(torch.randn(positions * positions, heads))

    def bias(self) -> Tensor:
        return (self.table * 1.5).view(self.positions, self.positions, self.heads).permute(2, 0, 1)


class Heads(nn.Module):
    """Attention over five positions with a table that states the number of heads as well."""

    def __init__(self, heads: int = 6, dim: int = 4) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim
        self.qkv, self.out = nn.Linear(8, 3 * heads * dim), nn.Linear(heads * dim, 8)
        self.relative = Bias(heads, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(len(x), -1, 3, self.heads, self.dim).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) + self.relative.bias()
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


CASES = {"halves": (Halves, (2, 3, 4, 4)), "a method of a child": (Heads, (2, 5, 8))}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("plan_of", [halves, unequal])
def test_it_is_cut_in_its_own_class(name: str, plan_of: object) -> None:
    kind, shape = CASES[name]
    model, x = kind().eval(), torch.randn(shape)
    traced = trace(model, x)
    graph = probe(model, traced, rewrite="never")
    assert set(graph.groups) == set(traced.groups) and not graph.rewritten
    plan = plan_of(graph)  # type: ignore[operator]
    smaller = cut(model, graph, plan)
    assert all(type(a) is type(b) for a, b in zip(model.modules(), smaller.modules()))
    assert prove(model, graph, plan, x, smaller=smaller).status == "exact"


def test_a_network_that_states_no_size_needs_one_trial_cut() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
    x = torch.randn(2, 3, 6, 6)
    assert not Claims.of(plain.eval(), trace(plain, x)).stated
    for kind, shape in CASES.values():
        model = kind().eval()
        assert Claims.of(model, trace(model, torch.randn(shape))).stated


def test_pads_in_front_and_behind_are_not_exchanged() -> None:
    """Either amount gives the predicted shape; only one puts the channels where they belong."""
    case = ZOO["cifar-resnet-pad"].value
    model, example = case.build(), case.example()
    traced = trace(model, example)
    plan = Plan({"2.conv2": (0,), "2.conv2#2": (0, 1, 2)}, "by hand", traced.fingerprint)
    masks = traced.resolve(plan).masks
    assert check(model, traced, masks, {("2.shortcut", "before"): 1, ("2.shortcut", "behind"): 3}) is None
    exchanged = check(model, traced, masks, {("2.shortcut", "before"): 3, ("2.shortcut", "behind"): 1})
    assert exchanged is not None and "pads by" in exchanged.message


@pytest.mark.parametrize("name", ["multi-head-attention", "transformer-encoder"])
def test_a_width_that_must_equal_a_product_is_a_grid_where_nothing_may_be_rewritten(name: str) -> None:
    case = ZOO[name].value
    model, example = case.build(), case.example()
    free, graph = (probe(model, trace(model, example), rewrite) for rewrite in ("free", "never"))
    widths = lambda g: [(n, group.units) for n, group in g.groups.items() if group.kind == "embedding width"]
    assert [units for _, units in widths(free)] == [16] and not free.ties and free.rewritten
    assert [units for _, units in widths(graph)] == [4, 4] and not graph.rewritten
    assert [{graph.groups[n].kind for n in tie} for tie in graph.ties] == [
        {"embedding width", "heads"},
        {"embedding width", "head dimension"},
    ]
    plan = unequal(graph, 1)
    assert not edits_for(model, graph, plan).programs and prove(model, graph, plan, example).passed
