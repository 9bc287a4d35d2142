"""Control flow that depends on values, strides or the length of a sequence."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.surgery.halved import ROWS, cut_in_half, frozen, made
from tests.zoo_graphs import understood
from torch import Tensor, nn

from sartor.structure import trace
from sartor.structure.recorder import record
from sartor.surgery import cut, probe, prove
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


@pytest.mark.parametrize("exits", [False, True])
def test_an_early_exit_is_cut_along_whether_the_example_takes_it_or_not(exits):
    model, example, _ = understood("early-exit")
    model = copy.deepcopy(model)
    if exits:
        with torch.no_grad():
            model.exit[2].bias[0] = 100.0
    graph = probe(model, trace(model, example))
    members = {(m.tensor, m.dim) for m in graph.groups["stem.0"].members}
    assert {("exit.0.fc.weight", 1), ("deeper.0.weight", 1)} <= members
    assert set(graph.groups) == {"stem.0", "deeper.0", "exit.0.fc"}
    assert frozen(graph)["exit.2.weight:0"] == frozen(graph)["head.fc.weight:0"] == "an output of the model"
    smaller = cut(model, graph, halves(graph))
    for bias in (100.0, -100.0):  # either branch runs
        with torch.no_grad():
            smaller.exit[2].bias[:] = torch.tensor([bias, 0, 0, 0, 0])
            left = torch.equal(smaller(example), smaller.exit(smaller.stem(example)))
        assert left == (bias > 0) or bias < 0


class Grouped(nn.Module):
    """The branch that the example does not take states a width by an attribute of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.width = nn.Linear(16, 8), nn.Linear(8, 4), 8

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.mean() > 1e4:
            x = x.reshape(-1, 5, self.width).sin()
        return self.b(x)


def test_attributes_of_the_other_branch_follow():
    graph, smaller = cut_in_half(made(Grouped()), ROWS)
    assert list(graph.groups) == ["a"] and smaller.width == smaller.a.out_features == 4


def test_a_forward_that_checks_its_own_values_is_cut():
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            if not torch.isfinite(x).all():
                raise ValueError("not finite")
            return self.b(x)

    graph, _ = cut_in_half(made(Checked()), ROWS)
    assert list(graph.groups) == ["a"] and not graph.branches
