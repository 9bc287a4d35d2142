"""Control flow that depends on values, strides or the length of a sequence."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.halved import ROWS, cut_in_half, made
from torch import Tensor, nn

from sartor.structure import trace
from sartor.structure.recorder import record
from sartor.surgery import probe, prove
from sartor.testing.plans import halves


class Turned(nn.Module):
    """A tensor that is contiguous for one sample, but not for two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).transpose(0, 1).contiguous().transpose(0, 1)
        return self.b(self.norm(x))


@pytest.mark.parametrize("n", [1, 2])
def test_calls_do_not_change_with_strides(n):
    model = made(Turned())
    assert [op.name for op in record(model, ROWS[:n]).ops].count("contiguous") == 1
    graph = probe(model, trace(model, ROWS[:1]))
    assert (
        prove(model, graph, halves(graph), ROWS[:n]).groups == 1
    )  # the reference of the norm is found by its position in the forward


class Masked(nn.Module):
    """Its branch depends on values: of a mask that it makes and writes to, and of its input."""

    def __init__(self, by_weight: bool = False) -> None:
        super().__init__()
        self.by_weight = by_weight
        self.a, self.b, self.c = nn.Linear(16, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        mask = torch.ones(5, dtype=torch.bool)
        mask[3:] = ids.sum() > 100
        y = self.a(x)
        if self.by_weight and y.mean().item() > 0:
            return self.c(y)
        return self.b(y) if mask.all().item() else self.c(y)


@pytest.mark.parametrize("large, used", [(True, "b"), (False, "c")])
def test_questions_about_positions_and_inputs_are_answered_on_meta(large, used):
    model, ids = made(Masked()), torch.full((3,), 99 if large else 1)
    graph = trace(model, (ROWS, ids))
    assert all(t.device.type == "meta" for t in graph.example)
    assert any(m.tensor == f"{used}.weight" for m in graph.groups["a"].members)
    cut_in_half(model, (ROWS, ids))


def test_questions_about_weights_need_real_tensors():
    graph = trace(made(Masked(by_weight=True)), (ROWS, torch.ones(3)))
    assert all(t.device.type == "cpu" for t in graph.example)


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_is_one_operator_however_long_the_sequence(kind):
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.r, self.o = kind(16, 8, batch_first=True, bidirectional=True), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.o(self.r(x)[0][:, -1])

    model = made(Net())
    short, long = (len(record(model, torch.randn(2, n, 16)).ops) for n in (3, 300))
    assert short == long < 20
    cut_in_half(model, ROWS)
