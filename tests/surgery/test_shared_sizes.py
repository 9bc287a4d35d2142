"""Equal sizes, parts of one axis, and axes cut down to a single unit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from tests.surgery.halved import ROWS, cut_in_half, frozen, made
from torch import Tensor, nn

from sartor.structure import trace
from sartor.surgery import probe, prove
from sartor.types import Plan


class EightByEight(nn.Module):
    """Eight heads of size eight: the value of an attribute does not show which of the two it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.size = 8, 8
        self.q, self.k, self.v, self.o = nn.Linear(16, 64), nn.Linear(16, 64), nn.Linear(16, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).view(len(x), -1, self.heads, self.size).transpose(1, 2) for f in (self.q, self.k, self.v))
        x = (q @ k.transpose(-1, -2) * 8**-0.5).softmax(-1) @ v
        return self.o(x.transpose(1, 2).reshape(len(x), -1, self.heads * self.size))


def test_equal_sizes_are_not_confused():
    model = made(EightByEight())
    graph = probe(model, trace(model, ROWS))
    for name in graph.groups:  # each group alone, and by another amount
        tied = next((t for t in graph.ties if name in t), (name,))
        plan = Plan({n: tuple(range(0, graph.groups[n].units, 3)) for n in tied}, "test", graph.fingerprint)
        assert prove(model, graph, plan, ROWS).passed
    assert {g.units for g in graph.groups.values()} == {8} and len(graph.groups) >= 3


class Twins(nn.Module):
    """Two equal halves; an operator that reads the second one cannot run after a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x)) + self.c.bias.new_zeros(4) + self.b(x).cumsum(-1)[..., :4]


def test_what_is_given_up_in_one_place_stays_in_its_twin():
    graph = trace(made(Twins()), ROWS)
    assert "a" in graph.groups and "b.weight:0" in frozen(graph)


class Fused(nn.Module):
    """Query, key and value of one layer, separated by selecting from the outermost factor."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(16, 3 * 2 * 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).reshape(len(x), -1, 3, 2, 4)
        q, k, v = (qkv.select(2, i).transpose(1, 2) for i in range(3))
        return self.o(F.scaled_dot_product_attention(q, k, v, scale=0.5).transpose(1, 2).flatten(2))


def test_selecting_freezes_only_the_factor_selected_from():
    graph, _ = cut_in_half(made(Fused()), ROWS)
    assert sorted(g.units for g in graph.groups.values()) == [2, 4]


class WithBuffers(nn.Module):
    """A buffer with one scale for each channel is cut with the channels; a table of indices is not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 4)
        self.register_buffer("scale", torch.rand(8))
        self.register_buffer("order", torch.tensor([4, 3, 2, 1, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.b((self.a(x) * self.scale)[:, self.order])


def test_buffers_are_cut_along_and_indices_are_not():
    _, smaller = cut_in_half(made(WithBuffers()), ROWS)
    assert smaller.scale.shape == (4,) and smaller.order.tolist() == [4, 3, 2, 1, 0]


class Chunked(nn.Module):
    """One number states the size of both halves."""

    def __init__(self, out: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, -1)
        return self.b(left) + self.b.bias * right.sum(-1, keepdim=True)


def test_parts_of_a_chunk_are_tied_in_count_not_frozen():
    graph, _ = cut_in_half(made(Chunked()), ROWS)
    assert len(graph.groups) == 2 and len(graph.ties) == 1


class UnequalChunks(nn.Module):
    """Eight units in parts of 3, 3 and 2: the counts are not equal in the original either."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 8), nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, x: Tensor) -> Tensor:
        one, two, three = self.a(x).chunk(3, -1)
        return self.b(one) + self.b(two) + self.c(three)


def test_unequal_parts_of_a_chunk_are_not_tied():
    model = made(UnequalChunks())
    graph, _ = cut_in_half(model, ROWS)
    assert all(len({graph.groups[n].units for n in t}) == 1 for t in graph.ties)
    assert sorted(g.units for g in graph.groups.values()) == [2, 3]
