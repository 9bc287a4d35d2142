"""Parts of a model that a forward in evaluation does not use, and forwards that change their own module."""

from __future__ import annotations

import pytest
import torch
from tests.surgery.halved import IMAGE, ROWS, cut_in_half, frozen, made
from tests.zoo_graphs import understood
from torch import Tensor, nn

from sartor.borrow import borrowed
from sartor.structure import trace
from sartor.surgery import cut, probe, prove
from sartor.testing.plans import halves
from sartor.types import Plan


class Routed(nn.Module):
    """Three experts, of which the forward only calls one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(16, 12), nn.Linear(12, 4)
        self.experts = nn.ModuleList(nn.Linear(12, 12) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.experts[0](self.stem(x)).relu())


def test_a_parameter_that_no_operator_used_is_not_free():
    graph = trace(made(Routed()), ROWS)
    assert {"experts.1.weight:0", "experts.1.weight:1", "experts.2.bias:0"} <= set(frozen(graph))
    assert not any(m.tensor.startswith(("experts.1", "experts.2")) for g in graph.groups.values() for m in g.members)


class Auxiliary(nn.Module):
    """A second head that is only used in training."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 8, 3)
        self.head, self.norm, self.aux = nn.Linear(8, 4), nn.BatchNorm2d(16), nn.Linear(16 * 36, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        out = self.head(self.b(x).mean((2, 3)))
        return out + self.aux(self.norm(x).flatten(1)) if self.training else out


def test_what_only_training_uses_is_cut_along_and_still_trains():
    model = made(Auxiliary())
    graph, smaller = cut_in_half(model, IMAGE)
    assert any(m.tensor == "aux.weight" and m.dim == 1 for m in graph.groups["a"].members)
    assert smaller.aux.in_features == smaller.aux.weight.shape[1] == 8 * 36 and smaller.norm.num_features == 8
    smaller.train()(IMAGE).sum().backward()
    assert smaller.aux.weight.grad is not None


class Tossed(Auxiliary):
    """The head that is used in training is chosen at random in Python, which a recording cannot represent."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Tossed.calls += self.training
        x = self.a(x).relu()
        out = self.head(self.b(x).mean((2, 3)))
        return out + self.aux(x.flatten(1)) if self.training and Tossed.calls % 2 else out


def test_a_training_path_left_to_chance_freezes_what_evaluation_leaves_alone():
    assert frozen(trace(made(Tossed()), IMAGE))["aux.weight:1"] == "no operator of this forward uses it"


class Caching(nn.Module):
    """Stores a table of the width of its input in an attribute, in a dict and as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.offset = nn.Linear(16, 8), nn.Linear(8, 4), nn.Parameter(torch.randn(8))
        self.register_buffer("kept", torch.zeros(1), persistent=False)
        self.table: Tensor | None = None
        self.tables: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if self.table is None:
            self.table = self.offset.detach() * 2
            self.tables["3"] = self.offset.detach() * 3
            self.kept = self.offset.detach() * 4
        return self.b(x + self.table + self.tables["3"] + self.kept)


def test_a_forward_that_changes_its_module_changes_nothing_of_the_users():
    model = made(Caching())
    before = {k: v for k, v in vars(model).items() if not k.startswith("_")}
    cut_in_half(model, ROWS)
    assert model.table is None and model.tables == {} and model.kept.shape == (1,)
    assert {k: v for k, v in vars(model).items() if not k.startswith("_")} == before


def test_what_a_borrowed_model_keeps_for_itself_is_taken_back():
    model = made(Caching())
    names, buffer = list(vars(model)), model.kept
    with pytest.raises(ZeroDivisionError), borrowed(model):
        model(ROWS)
        model.extra = 1
        assert model.tables
        _ = 1 / 0
    assert list(vars(model)) == names and model.tables == {} and model.table is None and model.kept is buffer


class OnlyTheShape(nn.Module):
    """Only the length of a slice is used, not its values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.place = nn.Linear(16, 8), nn.Linear(8, 4), nn.Embedding(9, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        places = self.place(torch.arange(x[:, :, -1].shape[1]))
        return self.b(x + places)


def test_values_that_reach_no_output_put_no_constraints():
    graph, _ = cut_in_half(made(OnlyTheShape()), ROWS)
    assert graph.groups["a"].units == 8


def test_an_axis_can_go_down_to_one():
    model = made(OnlyTheShape())
    graph = probe(model, trace(model, ROWS))
    assert prove(model, graph, Plan({"a": (5,)}, "test", graph.fingerprint), ROWS).passed


def test_what_stands_before_a_dead_layer_is_followed():
    _, _, graph = understood("dead-pooler")
    assert list(graph.groups) == ["embed", "wide"] and not any("origin" in f.reason for f in graph.frozen)
    members = {m.tensor for m in graph.groups["embed"].members}
    assert {"pooled.weight", "pooled.bias", "project.weight"} <= members


def test_a_dead_layer_still_runs_after_the_cut():
    model, example, graph = understood("dead-pooler")
    smaller = cut(model, graph, halves(graph))
    assert smaller.project.in_features == smaller.project.weight.shape[1] == 10
    smaller(example)
