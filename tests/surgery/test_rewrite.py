"""Rewritten forwards compute, train, load and export like the original module, and refuse other calls."""

from __future__ import annotations

import copy
from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

from sartor.errors import BadInput, CorruptFile
from sartor.structure import trace
from sartor.surgery import Edits, apply_edits, cut, edits_for, probe, prove
from sartor.surgery.program import Program, Rewritten
from sartor.testing.plans import halves


class Attention(nn.Module):
    """Heads are joined with the width of the input: `reshape(B, N, C)` cannot run after a cut of heads or head size."""

    def __init__(self, width: int = 24, heads: int = 4):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.norm, self.drop = nn.BatchNorm1d(width), nn.Dropout(0.5)

    def forward(self, x: Tensor, double: bool = False) -> Tensor:
        """[n, tokens, width] -> the same."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-2, -1)) * (c // self.heads) ** -0.5).softmax(-1) @ v
        y = self.drop(self.proj(y.transpose(1, 2).reshape(b, n, c)))
        y = self.norm(y.transpose(1, 2)).transpose(1, 2)
        return 2 * y if double else y


class Net(nn.Module):
    """Two blocks between two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 24), nn.Linear(24, 5)
        self.a, self.b = Attention(), Attention()

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, 6] -> [n, 5]."""
        x = self.stem(x)
        x = x + self.a(x)
        return self.head((x + self.b(x)).mean(1))


class Shared(nn.Module):
    """One attention module that is called twice, in the same or in different ways."""

    def __init__(self, differently: bool) -> None:
        super().__init__()
        self.differently = differently
        self.stem, self.head, self.a = nn.Linear(6, 24), nn.Linear(24, 5), Attention()

    def forward(self, x: Tensor) -> Tensor:
        """[n, tokens, 6] -> [n, 5]."""
        x = self.stem(x)
        y = self.a(x)
        y = self.a(y, True) if self.differently else self.a(y)
        return self.head(y.mean(1))


X = torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def edits(net: nn.Module) -> Edits:
    graph = probe(net, trace(net, X[:1]))
    return edits_for(net, graph, halves(graph))


def test_every_axis_is_realised_exactly(net: nn.Module) -> None:
    found = trace(net, X[:1])
    graph = probe(net, found)
    assert set(graph.groups) == set(found.groups)
    plan = halves(graph)
    smaller = cut(net, graph, plan)
    assert isinstance(smaller.a, Rewritten) and isinstance(smaller.a, Attention) and type(smaller) is Net
    assert smaller.a.proj.weight.shape[1] < smaller.a.proj.weight.shape[0] * 2
    assert prove(net, graph, plan, X, smaller=smaller).passed
    assert smaller(torch.randn(5, 7, 6)).shape == (5, 5)


def test_a_plan_that_needs_no_rewriting_gets_none(net: nn.Module) -> None:
    graph = probe(net, trace(net, X[:1]))
    (stream,) = [n for n in graph.groups if n == "stem"]
    plan = halves(graph)
    whole = {n: tuple(range(graph.groups[n].units)) for n in plan.keep}
    only = type(plan)({**whole, stream: plan.keep[stream]}, "test", graph.fingerprint)
    assert edits_for(net, graph, only).programs  # reshape(b, n, c) states the width of the residual stream
    assert not Edits.from_json(edits_for(Linear(), *_plan(Linear())).to_json()).programs


class Linear(nn.Sequential):
    """A network without a forward to rewrite."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def _plan(model: nn.Module):
    graph = probe(model, trace(model, torch.zeros(1, 6)))
    return graph, halves(graph)


def test_edits_survive_json_and_replay_bit_for_bit(net: nn.Module, edits: Edits) -> None:
    again = Edits.from_json(edits.to_json())
    assert again == edits
    assert torch.equal(apply_edits(net, edits)(X), apply_edits(copy.deepcopy(net), again)(X))


@pytest.mark.parametrize("damage", ['"format": 1', '"steps"', "aten::linear.default"])
def test_damaged_programs_are_refused(edits: Edits, damage: str) -> None:
    text = edits.to_json()
    assert damage in text
    with pytest.raises(CorruptFile):
        Edits.from_json(text.replace(damage, damage[:-2] + 'X"' if damage.endswith('"') else "aten::nonsense.default"))


def test_another_network_is_refused(edits: Edits) -> None:
    with pytest.raises(BadInput):
        apply_edits(Linear(), edits)


def test_dropout_and_norms_follow_the_mode_and_it_trains(net: nn.Module, edits: Edits) -> None:
    smaller = apply_edits(net, edits)
    assert torch.equal(smaller(X), smaller(X))
    smaller.train()
    before = smaller.a.norm.running_mean.clone()
    torch.manual_seed(0)
    first, second = smaller(X), smaller(X)
    assert not torch.equal(first, second)  # dropout
    assert not torch.equal(before, smaller.a.norm.running_mean)
    second.square().mean().backward()
    assert all(p.grad is not None for p in smaller.a.parameters())
    smaller.eval()
    assert torch.equal(smaller(X), smaller(X))


def test_names_and_copies_stay_ordinary(net: nn.Module, edits: Edits) -> None:
    smaller = apply_edits(net, edits)
    assert list(smaller.state_dict()) == list(net.state_dict())
    assert torch.equal(copy.deepcopy(smaller)(X), smaller(X))
    assert "Attention" in repr(smaller) and smaller.a.heads


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        ((torch.zeros(2, 9, 12),), {}),  # another number of tokens
        ((torch.zeros(2, 7, 12), True), {}),
        ((torch.zeros(2, 7, 12),), {"double": True}),
        ((torch.zeros(7, 12),), {}),
    ],
)
def test_other_calls_are_refused_and_never_answered_wrongly(net, edits, args, kwargs) -> None:
    smaller = apply_edits(net, edits)
    with pytest.raises(BadInput, match="rewritten forward"):
        smaller.a(*args, **kwargs)


def test_a_module_called_twice_alike_is_written_once() -> None:
    torch.manual_seed(0)
    model = Shared(False).eval()
    graph = probe(model, trace(model, X[:1]))
    plan = halves(graph)
    assert set(graph.groups) == set(trace(model, X[:1]).groups) and prove(model, graph, plan, X).passed


def test_around_a_module_called_in_two_ways_the_model_itself_is_written() -> None:
    torch.manual_seed(0)
    model = Shared(True).eval()
    graph = probe(model, trace(model, X[:1]))
    plan = halves(graph)
    smaller = cut(model, graph, plan)
    assert isinstance(smaller, Rewritten) and isinstance(smaller, Shared) and not isinstance(smaller.a, Rewritten)
    assert prove(model, graph, plan, X, smaller=smaller).passed


class Peeks(nn.Module):
    """Its control flow depends on values, and it states a size that no attribute holds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, 8, 8] -> [n, 5]."""
        x = self.conv(x)
        if x.sum() > 1e9:
            x = x / 2
        return self.head(x.view(-1, 288))


def test_a_forward_that_looks_at_values_keeps_its_axes_and_says_why() -> None:
    torch.manual_seed(0)
    model = Peeks().eval()
    graph = probe(model, trace(model, torch.randn(1, 3, 8, 8)))
    assert not graph.groups
    assert any("control flow depends on tensor values" in f.reason and "view" in f.reason for f in graph.frozen)


def test_the_exported_network_computes_the_same(net: nn.Module, edits: Edits) -> None:
    smaller = apply_edits(net, edits)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(smaller, (X,), dynamic_shapes=({0: batch},))
    more = torch.randn(9, 7, 6)
    torch.testing.assert_close(program.module()(more), smaller(more))


class Copies(nn.Module):
    """It repeats units, states a size that no attribute holds, and returns more than a tensor."""

    def __init__(self, kind: type = dict):
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(6, 8), nn.Linear(8, 5), kind

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """[n, 6] -> {"y": [n, 5], "z": [n, 2, 5]}."""
        y = self.a(x).view(-1, 8).repeat(2, 1)
        y = self.b(y).view(2, -1, 5)
        return self.kind({"y": y[0], "z": y.transpose(0, 1)})


def test_copies_are_no_sizes_and_plain_containers_come_back() -> None:
    torch.manual_seed(0)
    model, x = Copies().eval(), torch.randn(3, 6)
    graph = probe(model, trace(model, x[:1]))
    plan = halves(graph)
    smaller = cut(model, graph, plan)
    assert prove(model, graph, plan, x, smaller=smaller).passed
    assert type(smaller(x)) is dict and smaller(x)["z"].shape == (3, 2, 5)


def test_outputs_of_another_type_are_not_rewritten() -> None:
    model = Copies(OrderedDict).eval()
    graph = probe(model, trace(model, torch.randn(1, 6)))
    assert not graph.groups and any("OrderedDict" in f.reason for f in graph.frozen)


def test_a_program_is_what_its_json_says(edits: Edits) -> None:
    program = next(iter(edits.programs.values()))
    assert Program(program.raw) == program and hash(Program(program.raw)) == hash(program)
    assert {"qkv.weight", "proj.bias"} <= program.names()
