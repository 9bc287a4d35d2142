"""Values that depend on several units, or on a width: what the proof compares and what it leaves out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.surgery.halved import IMAGE, ROWS, cut_in_half, made
from torch import Tensor, nn

from sartor.errors import ProofFailed
from sartor.structure import trace
from sartor.surgery import probe, prove
from sartor.testing.plans import halves


class WidthAsValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x / x.shape[-1] ** 0.5)


class WidthInTensor(WidthAsValue):
    """The width goes into a tensor of several numbers, which the shape check does not compare."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x / torch.tensor([float(x.shape[-1])] * 2)[0])


def test_a_width_used_as_a_value_keeps_its_value():
    cut_in_half(made(WidthAsValue()), ROWS)


def test_a_width_used_as_a_value_where_it_cannot_be_seen_is_found_by_the_proof():
    model = made(WidthInTensor())
    graph = probe(model, trace(model, ROWS))
    with pytest.raises(ProofFailed, match="'a'"):
        prove(model, graph, halves(graph), ROWS)


class Attention(nn.Module):
    """The operator derives its scale, 1 / sqrt(head size), from the shape of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (2, 8)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def test_the_scale_of_attention_stays_that_of_the_original_head_size():
    _, smaller = cut_in_half(made(Attention()), ROWS)
    assert smaller.q.weight.shape[0] < 16


class Standardised(nn.Module):
    """Weight standardisation, written as a batch norm of the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        w = self.b.weight
        w = F.batch_norm(w.reshape(1, len(w), -1), None, None, training=True).reshape_as(w)
        return F.conv2d(self.a(x).relu(), w).mean((2, 3))


class RootMeanSquare(nn.Module):
    """An RMS norm, written with elementary operators."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x * x.pow(2).mean(-1, keepdim=True).add(1e-6).rsqrt())


class UnitLength(RootMeanSquare):
    """An l2 norm: the length is taken over the units."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(F.normalize(x, dim=-1))


@pytest.mark.parametrize("kind, example", [(Standardised, IMAGE), (RootMeanSquare, ROWS)])
def test_mixing_hidden_in_ordinary_operators_is_flagged(kind, example):
    graph = trace(made(kind()), example)
    assert graph.groups["a"].mixes


def test_a_length_over_units_is_silenced_exactly():
    """Zeros add nothing to a sum of squares, so the cut equals the zero-masked original."""
    cut_in_half(made(UnitLength()), ROWS)


def test_directions_of_length_zero_do_not_spoil_the_proof():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(16, 8)), nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)),
    )  # fmt: skip
    _, smaller = cut_in_half(made(model), ROWS)
    assert smaller(ROWS).isfinite().all()


class Tie(nn.Module):
    """Two parts tied in count; a softmax over one of them mixes it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, -1)
        return self.b(left.softmax(-1)) + self.c(right)


def test_a_softmax_over_units_is_compared_over_the_units_that_remain():
    model = made(Tie())
    graph = probe(model, trace(model, ROWS))
    proof = prove(model, graph, halves(graph), ROWS)
    assert (proof.groups, proof.mixing_groups, proof.status) == (2, 0, "exact")


class Picks(nn.Module):
    """Returns the rows with the highest scores."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.score, self.out = nn.Linear(16, 8), nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        best = self.score(x).squeeze(-1).topk(3, dim=1).indices
        return self.out(x.gather(1, best[..., None].expand(-1, -1, x.shape[-1])))


def test_rounding_does_not_decide_who_is_picked():
    """Both models are computed in float64, so rows that are equal in float32 are ordered the same way."""
    model = made(Picks())
    rows = ROWS[:, :1] + 1e-7 * torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(3))
    graph = probe(model, trace(model, rows))
    model_before = copy.deepcopy(model.state_dict())
    assert prove(model, graph, halves(graph), rows).max_relative_error < 1e-9
    assert all(torch.equal(v, model_before[k]) and v.dtype == torch.float32 for k, v in model.state_dict().items())
