"""What goes wrong most easily when networks are cut, each with the smallest network that shows it."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.borrow import borrowed
from sartor.errors import ProofFailed
from sartor.structure import Graph, trace
from sartor.structure.recorder import record
from sartor.surgery import cut, probe, prove
from sartor.testing.plans import halves
from sartor.testing.zoo import randomise_
from sartor.types import Plan

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))


def made(model: nn.Module) -> nn.Module:
    """Numbers that are neither 0 nor 1, evaluation mode."""
    torch.manual_seed(0)
    randomise_(model)
    return model.eval()


def frozen(graph: Graph) -> dict[str, str]:
    return {f.axis: f.reason for f in graph.frozen}


def cut_in_half(model: nn.Module, example: object) -> tuple[Graph, nn.Module]:
    """Every axis that can be cut, halved; proved."""
    graph = probe(model, trace(model, example))
    plan = halves(graph)
    smaller = cut(model, graph, plan)
    prove(model, graph, plan, example, smaller=smaller)
    return graph, smaller


class Routed(nn.Module):
    """Three experts of which the inputs only ever meet one."""

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
    """A second head that only training asks for."""

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
    """Which head is asked in training is a matter of chance in Python, which no recording can follow."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        Tossed.calls += self.training
        x = self.a(x).relu()
        out = self.head(self.b(x).mean((2, 3)))
        return out + self.aux(x.flatten(1)) if self.training and Tossed.calls % 2 else out


def test_a_training_path_left_to_chance_freezes_what_evaluation_leaves_alone():
    assert frozen(trace(made(Tossed()), IMAGE))["aux.weight:1"] == "no operator of this forward uses it"


class WidthAsValue(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x / x.shape[-1] ** 0.5)


def test_a_width_used_as_a_value_is_found_by_the_proof():
    model = made(WidthAsValue())
    graph = probe(model, trace(model, ROWS))
    with pytest.raises(ProofFailed, match="'a'"):
        prove(model, graph, halves(graph), ROWS)


class Attention(nn.Module):
    """Its scale is one over the root of the head size: taken by the operator from what it is given."""

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
    """Weight standardisation spelled as a batch norm over the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        w = self.b.weight
        w = F.batch_norm(w.reshape(1, len(w), -1), None, None, training=True).reshape_as(w)
        return F.conv2d(self.a(x).relu(), w).mean((2, 3))


class RootMeanSquare(nn.Module):
    """An RMS norm spelled out."""

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
    """Zeros add nothing to a sum of squares, so here cutting is silencing."""
    cut_in_half(made(UnitLength()), ROWS)


class Caching(nn.Module):
    """Keeps a table of the width it saw, as a plain attribute, in a dict and in a buffer's place."""

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


class EightByEight(nn.Module):
    """Eight heads of eight: which of the two an attribute says cannot be told from its value."""

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
    for name in graph.groups:  # each alone, and by another amount
        tied = next((t for t in graph.ties if name in t), (name,))
        plan = Plan({n: tuple(range(0, graph.groups[n].units, 3)) for n in tied}, "test", graph.fingerprint)
        assert prove(model, graph, plan, ROWS).passed
    assert {g.units for g in graph.groups.values()} == {8} and len(graph.groups) >= 3


class Twins(nn.Module):
    """Two alike halves, of which the second is read by what cannot follow a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 8), nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x)) + self.c.bias.new_zeros(4) + self.b(x).cumsum(-1)[..., :4]


def test_what_is_given_up_in_one_place_stays_in_its_twin():
    graph = trace(made(Twins()), ROWS)
    assert "a" in graph.groups and "b.weight:0" in frozen(graph)


class OnlyTheShape(nn.Module):
    """Part of a tensor is taken for nothing but its length."""

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


class Turned(nn.Module):
    """What is contiguous for one sample is not for two."""

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
    assert prove(model, graph, halves(graph), ROWS[:n]).groups == 1  # the norm over survivors is found by counting


class Masked(nn.Module):
    """Looks at values before it decides: of a mask made on the spot and written to, and of its input."""

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


def test_an_axis_can_go_down_to_one():
    model = made(OnlyTheShape())
    graph = probe(model, trace(model, ROWS))
    assert prove(model, graph, Plan({"a": (5,)}, "test", graph.fingerprint), ROWS).passed


class Fused(nn.Module):
    """Query, key and value of one layer, told apart by selecting from the outermost factor."""

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
    """A scale by channel is cut along; a table of indices is not."""

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


def test_directions_of_length_zero_do_not_spoil_the_proof():
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(16, 8)), nn.ReLU(),
        nn.utils.parametrizations.weight_norm(nn.Linear(8, 4)),
    )  # fmt: skip
    _, smaller = cut_in_half(made(model), ROWS)
    assert smaller(ROWS).isfinite().all()


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


class Chunked(nn.Module):
    """One number says both halves."""

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
    """Three parts of eight: 3, 3 and 2; equal counts would not even hold for the original."""

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


class Tie(nn.Module):
    """Two parts tied in count; a softmax over one of them mixes it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, -1)
        return self.b(left.softmax(-1)) + self.c(right)


def test_a_tie_between_a_mixed_group_and_another_is_left_out_of_the_proof_as_one():
    model = made(Tie())
    graph = probe(model, trace(model, ROWS))
    proof = prove(model, graph, halves(graph), ROWS)
    assert (proof.groups, proof.mixing_groups) == (0, 2)


class Picks(nn.Module):
    """Gives back the rows that score highest."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.score, self.out = nn.Linear(16, 8), nn.Linear(8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        best = self.score(x).squeeze(-1).topk(3, dim=1).indices
        return self.out(x.gather(1, best[..., None].expand(-1, -1, x.shape[-1])))


def test_rounding_does_not_decide_who_is_picked():
    """Rows that differ by less than float32 can tell are told apart alike, since both are computed in float64."""
    model = made(Picks())
    rows = ROWS[:, :1] + 1e-7 * torch.randn(2, 50, 16, generator=torch.Generator().manual_seed(3))
    graph = probe(model, trace(model, rows))
    model_before = copy.deepcopy(model.state_dict())
    assert prove(model, graph, halves(graph), rows).max_relative_error < 1e-9
    assert all(torch.equal(v, model_before[k]) and v.dtype == torch.float32 for k, v in model.state_dict().items())
