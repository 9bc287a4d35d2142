"""Rewritten forwards compute, train, load and export like the original module, at any size and with any mask."""

from __future__ import annotations

import copy
import io
import json
import pickle
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from tests.surgery.halved import made
from torch import Tensor, nn

from sartor.errors import BadInput, CorruptFile
from sartor.structure import record_variant, trace
from sartor.surgery import Edits, apply_edits, cut, edits_for, probe, prove
from sartor.surgery.program import Program, Rewritten, rewrite_
from sartor.surgery.silence import silence
from sartor.testing.plans import halves, unequal


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


@pytest.mark.parametrize("damage", ['"positional"', '"steps"', "aten::linear.default"])
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


def test_a_module_called_in_two_ways_has_two_variants() -> None:
    torch.manual_seed(0)
    model = Shared(True).eval()
    graph = probe(model, trace(model, X[:1]))
    plan = halves(graph)
    smaller = cut(model, graph, plan)
    assert isinstance(smaller.a, Rewritten) and len(smaller.a.program.variants) == 2
    assert prove(model, graph, plan, X, smaller=smaller).passed


@pytest.mark.parametrize(("n", "tokens"), [(1, 7), (3, 1), (2, 23), (5, 8)])
def test_any_batch_and_any_length_equals_the_silenced_original(net: nn.Module, n: int, tokens: int) -> None:
    graph = probe(net, trace(net, X[:1]))
    plan = halves(graph)
    x = torch.randn(n, tokens, 6, generator=torch.Generator().manual_seed(n))
    torch.testing.assert_close(cut(net, graph, plan)(x), silence(net, graph, plan)(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["pickle", "torch.save", "deepcopy"])
def test_it_is_pickled_and_copied(net: nn.Module, edits: Edits, how: str) -> None:
    smaller = apply_edits(net, edits)
    if how == "deepcopy":
        again = copy.deepcopy(smaller)
    elif how == "pickle":
        again = pickle.loads(pickle.dumps(smaller))
    else:
        buffer = io.BytesIO()
        torch.save(smaller, buffer)
        buffer.seek(0)
        again = torch.load(buffer, weights_only=False)
    assert torch.equal(again(X), smaller(X)) and type(again.a) is type(smaller.a)
    assert again.a.proj.weight is not smaller.a.proj.weight


def test_hooks_and_dtypes_follow(net: nn.Module, edits: Edits) -> None:
    smaller = apply_edits(net, edits)
    seen: list[torch.Size] = []
    smaller.a.register_forward_hook(lambda module, args, out: seen.append(out.shape))
    smaller.double()(X.double())
    assert len(seen) == 1


class Masked(nn.Module):
    """Attention with an optional mask, in a model that passes it on."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention = nn.Linear(6, 24), MaskedAttention()

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 1.0) -> Tensor:
        """[n, tokens, 6], [n, tokens] -> [n, 5]."""
        return self.attention(self.stem(x), mask=mask) * scale


class MaskedAttention(nn.Module):
    """Attention that joins heads with the width of its input."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(24, 72), nn.Linear(24, 5)

    def forward(self, x: Tensor, mask: Tensor | None = None, double: bool = False) -> Tensor:
        """[n, tokens, 24], [n, tokens] -> [n, 5]."""
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, -1).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None, :] == 0, -1e4)
        y = self.head((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c)).mean(1)
        return 2 * y if double else y


def _masked(mask: bool) -> dict[str, Tensor]:
    x = {"x": torch.randn(2, 7, 6)}
    return {**x, "mask": (torch.arange(7)[None] < torch.tensor([[7], [4]])).long()} if mask else x


def test_what_would_stay_fixed_is_named_and_frozen_unless_it_is_allowed() -> None:
    torch.manual_seed(0)
    model = Masked().eval()
    found = trace(model, _masked(False))
    free, allowed, never = (probe(model, found, mode) for mode in ("free", "allow", "never"))
    assert len(free.groups) < len(found.groups) == len(allowed.groups)
    assert any("takes mask=None only" in f.reason and "rewrite='allow'" in f.reason for f in free.frozen)
    assert allowed.rewritten == {"attention": ("takes mask=None only",)}
    assert not never.rewritten and any("rewrite='never'" in f.reason for f in never.frozen)
    smaller = cut(model, allowed, halves(allowed))
    with pytest.raises(BadInput, match="mask"):
        smaller(**_masked(True))


def test_a_mask_that_an_example_shows_is_taken_and_may_be_left_out() -> None:
    torch.manual_seed(0)
    model = Masked().eval()
    variant = record_variant(model, _masked(True))
    assert variant is not None
    graph = probe(model, trace(model, _masked(False), [variant]))
    assert graph.rewritten == {"attention": ()}
    plan = halves(graph)
    smaller, reference = cut(model, graph, plan), silence(model, graph, plan)
    for given in (_masked(True), _masked(False), {**_masked(True), "scale": 1.0}):
        longer = {k: v.repeat(1, 3, *([1] * (v.dim() - 2))) if isinstance(v, Tensor) else v for k, v in given.items()}
        for inputs in (given, longer):
            torch.testing.assert_close(smaller(**inputs), reference(**inputs), rtol=1e-4, atol=1e-5)


def test_keywords_that_say_nothing_are_ignored(net: nn.Module, edits: Edits) -> None:
    smaller = apply_edits(net, edits)
    x = torch.randn(2, 7, smaller.a.qkv.in_features)
    assert torch.equal(smaller.a(x), smaller.a(x=x, double=False))


OLD = {  # as format 1 wrote it: a linear layer between two views
    "format": 1, "inputs": [[{"batch": 1}, 2, 3]], "same": [0], "plain": [["*", None], {"flag": None}],
    "steps": [
        ["aten::view.default", [{"slot": 0}, [{"batch": 2}, 3]], {}, [1], [0]],
        ["aten::linear.default", [{"slot": 1}, {"tensor": "weight"}, {"tensor": "bias"}], {}, [2], [1]],
        ["aten::view.default", [{"slot": 2}, [{"batch": 1}, 8]], {}, [3], [2]],
    ],
    "output": {"slot": 3},
}  # fmt: skip


def test_programs_of_format_1_are_read(edits: Edits) -> None:
    layer = nn.Linear(3, 4)
    again = rewrite_(layer, "", Program(json.loads(json.dumps(OLD))))
    x = torch.randn(5, 2, 3)
    assert torch.equal(again(x), layer(x.view(10, 3)).view(5, 8))
    with pytest.raises(BadInput):
        again(torch.randn(5, 3, 3))
    text = json.loads(edits.to_json())
    assert Edits.from_json(json.dumps({**text, "forwards": {"a": OLD}})).programs["a"].raw["format"] == 2
    assert replace(edits, programs={}).programs == {}


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
    batch, tokens = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "tokens"))
    program = torch.export.export(smaller, (X,), dynamic_shapes=({0: batch, 1: tokens},))
    more = torch.randn(9, 13, 6)
    torch.testing.assert_close(program.module()(more), smaller(more))


def test_the_compiled_network_computes_the_same(net: nn.Module, edits: Edits) -> None:
    smaller = apply_edits(net, edits)
    compiled = torch.compile(smaller, backend="eager", dynamic=True)
    for x in (X, torch.randn(3, 11, 6)):
        torch.testing.assert_close(compiled(x), smaller(x))


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


class TokenAttention(nn.Module):
    """Two heads of four, as literals."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.o = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = (q @ k.transpose(-1, -2) * 0.4).softmax(-1) @ v
        return self.o(y.transpose(1, 2).reshape(n, t, c))


class LargePatches(nn.Module):
    """Tokens of 16 x 16 pixels: a few pixels more make no further token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.attention, self.head = nn.Conv2d(3, 8, 16, 16), TokenAttention(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.head((x + self.attention(x)).mean(1))


def test_a_rewritten_forward_behind_large_strides_takes_pictures_of_every_size():
    model, picture = made(LargePatches()), torch.randn(2, 3, 64, 64)
    graph = probe(model, trace(model, picture))
    plan = unequal(graph)
    assert "attention" in graph.rewritten and not graph.rewritten["attention"]
    smaller, silenced = cut(model, graph, plan), silence(model, graph, plan)
    for size in (32, 64, 96, 144):
        x = torch.randn(3, 3, size, size)
        assert torch.allclose(smaller(x), silenced(x), atol=1e-5)
