"""One number that states several sizes: a tie where it must be, and nothing rewritten."""

from __future__ import annotations

import re

import pytest
import torch
from tests.surgery.halved import made
from torch import Tensor, nn

from sartor.errors import BadInput
from sartor.structure import record_variant, trace
from sartor.structure.other_inputs import other_inputs, several_examples
from sartor.surgery import cut, edits_for, probe, prove, silence
from sartor.testing.plans import unequal
from sartor.testing.zoo import ZOO
from sartor.types import Plan

SEQUENCES = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(0))


class OneHeadSize(nn.Module):
    """Queries, keys and values are taken apart by one attribute, as in BERT; the number of heads is inferred."""

    def __init__(self, rotary: bool = False) -> None:
        super().__init__()
        self.head_size, self.rotary = 6, rotary
        self.q, self.k, self.v, self.o = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        shape = (*x.shape[:2], -1, self.head_size)
        q, k, v = (f(x).view(shape).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.rotary:
            q, k = (y + torch.cat([-y[..., y.shape[-1] // 2 :], y[..., : y.shape[-1] // 2]], -1) for y in (q, k))
        scores = q @ k.transpose(-1, -2) * 0.4
        if attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None, None, :] == 0, -1e4)
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Blocks(nn.Module):
    """Three equal blocks between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Linear(16, 16), nn.Linear(16, 5)
        self.blocks = nn.ModuleList(OneHeadSize() for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.into(x)
        for block in self.blocks:
            x = x + block(x)
        return self.out(x)


@pytest.mark.parametrize("seed", range(3))
def test_sizes_stated_by_one_attribute_are_tied_and_nothing_is_rewritten(seed):
    model = made(Blocks())
    graph = probe(model, trace(model, SEQUENCES))
    plan = unequal(graph, seed)
    edits = edits_for(model, graph, plan)
    assert not edits.programs and prove(model, graph, plan, SEQUENCES).passed
    assert len(graph.ties) == 3 and all(len(t) == 2 for t in graph.ties)
    longer = torch.randn(3, 11, 16)
    assert cut(model, graph, plan)(longer).shape == model(longer).shape


@pytest.mark.parametrize("seed", range(3))
def test_a_head_whose_halves_are_swapped_is_tied_with_one_that_is_whole(seed):
    model = made(OneHeadSize(rotary=True))
    graph = probe(model, trace(model, SEQUENCES))
    assert len(graph.ties) == 1 and not edits_for(model, graph, unequal(graph, seed)).programs
    assert prove(model, graph, unequal(graph, seed), SEQUENCES).passed


class ByChance(nn.Module):
    """A limit equals the hidden width, and the forward computes with it."""

    def __init__(self) -> None:
        super().__init__()
        self.limit = 12
        self.a, self.b = nn.Linear(16, 12), nn.Linear(12, 5)
        self.places = nn.Embedding(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = x.reshape(x.shape)
        return self.b(x) + self.places(torch.arange(self.limit)).mean()


def test_an_attribute_that_equals_a_width_by_chance_is_left_alone():
    model = made(ByChance())
    graph = probe(model, trace(model, SEQUENCES))
    smaller = cut(model, graph, unequal(graph))
    assert "a" in graph.groups and smaller.limit == 12 and prove(model, graph, unequal(graph), SEQUENCES).passed


def test_a_padded_text_of_any_length_is_taken_by_a_cut_with_unequal_shares():
    model = made(OneHeadSize())
    mask = torch.ones(2, 7, dtype=torch.int64)
    graph = probe(model, trace(model, {"x": SEQUENCES, "attention_mask": mask}))
    plan = unequal(graph, 2)
    smaller, silenced = cut(model, graph, plan), silence(model, graph, plan)
    for length in (7, 4, 11):
        x, padded = torch.randn(3, length, 16), torch.ones(3, length, dtype=torch.int64)
        padded[1, length // 2 :] = 0
        for given in ({"x": x}, {"x": x, "attention_mask": padded}):
            assert torch.allclose(smaller(**given), silenced(**given), atol=1e-5)


def test_a_plan_that_breaks_a_tie_is_refused_with_the_groups_and_what_each_keeps():
    model = made(Blocks())
    graph = probe(model, trace(model, SEQUENCES))
    one, other = graph.ties[0]
    plan = Plan({one: (0, 1), other: (0, 1, 2)}, "by hand", graph.fingerprint)
    with pytest.raises(BadInput, match=rf"'{re.escape(one)}' keeps 2, '{re.escape(other)}' keeps 3.*graph\.ties"):
        cut(model, graph, plan)


@pytest.mark.parametrize("seed", range(4))
def test_heads_that_are_rotated_in_part_are_cut_and_nothing_is_rewritten(seed):
    case = ZOO["partial-rotary"].value
    model, example = case.build(), case.example()
    graph = probe(model, trace(model, example))
    plan = unequal(graph, seed)
    assert "head dimension" in {g.kind for g in graph.groups.values()} and "heads" in {
        g.kind for g in graph.groups.values()
    }
    assert not edits_for(model, graph, plan).programs and prove(model, graph, plan, example).passed
    assert cut(model, graph, plan)(torch.randn(3, 9, 16)).shape == (3, 9, 5)


class Muted(nn.Module):
    """Padded steps are set to zero through a mask that is repeated to the width, as in wav2vec2."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        x = self.a(x)
        if attention_mask is not None:
            x[~attention_mask[:, :, None].repeat(1, 1, x.shape[2]).bool()] = 0
        return self.b(x)


def test_a_number_written_through_a_mask_of_the_whole_width_does_not_freeze_the_width():
    model = made(Muted())
    graph = probe(model, trace(model, SEQUENCES))
    plan, mask = unequal(graph), torch.ones(2, 7, dtype=torch.int64)
    mask[1, 4:] = 0
    assert len(graph.variants) == 1 and graph.groups["a"].units == 12
    smaller, silenced = cut(model, graph, plan), silence(model, graph, plan)
    for given in ((SEQUENCES,), (SEQUENCES, mask)):
        assert torch.allclose(smaller(*given), silenced(*given), atol=1e-5)


class SizeOfAnother(nn.Module):
    """The width of one layer is read off the result of another one."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 12), nn.Linear(12, 12)
        self.left, self.right = nn.Linear(12, 5), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        n, _, width = x.shape
        y = self.b(x).transpose(1, 2).reshape(n, width, -1).transpose(1, 2)
        return self.left(x) + self.right(y)


def test_a_size_that_is_read_off_another_tensor_ties_the_two_and_nothing_is_rewritten():
    model = made(SizeOfAnother())
    graph = probe(model, trace(model, SEQUENCES))
    assert ("a", "b") in graph.ties and not graph.rewritten
    assert prove(model, graph, unequal(graph), SEQUENCES).passed
    assert cut(model, graph, unequal(graph))(torch.randn(3, 11, 16)).shape == (3, 11, 5)


class Repeats(nn.Module):
    """Queries in groups: how often a key is repeated is read only where there is a mask."""

    def __init__(self, each: int = 3, early: bool = False) -> None:
        super().__init__()
        self.size, self.each, self.early = 5, each, early
        self.q, self.k, self.o = nn.Linear(16, 10 * each), nn.Linear(16, 10), nn.Linear(10 * each, 16)

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        q, k = (f(x).view(*x.shape[:2], -1, self.size).transpose(1, 2) for f in (self.q, self.k))
        if attention_mask is None:
            y = nn.functional.scaled_dot_product_attention(q, k, k, enable_gqa=True, scale=0.4)
        else:
            mask = attention_mask[:, None, None, :].bool()
            n, heads, length, size = k.shape
            if self.each > 1 or not self.early:
                k = k[:, :, None].expand(n, heads, self.each, length, size).reshape(n, heads * self.each, length, size)
            y = nn.functional.scaled_dot_product_attention(q, k, k, attn_mask=mask, scale=0.4)
        return self.o(y.transpose(1, 2).flatten(2))


def test_an_attribute_that_only_another_input_reads_follows_the_cut():
    model, masked = made(Repeats()), {"x": SEQUENCES, "attention_mask": torch.ones(2, 7, dtype=torch.int64)}
    graph = probe(model, trace(model, {"x": SEQUENCES}, [record_variant(model, masked)]))
    assert len(graph.variants) == 1
    each = next(n for n, g in graph.groups.items() if g.units == 3)
    plan = unequal(graph, 1)
    smaller = cut(model, graph, plan)
    assert smaller.each == len(plan.keep[each])
    assert smaller(**masked).shape == (2, 7, 16)
    assert torch.allclose(smaller(**masked), smaller(SEQUENCES), atol=1e-5)


@pytest.mark.parametrize("group", ["query groups", "queries per group"])
def test_two_equal_sizes_that_can_only_become_1_are_told_apart_and_repeating_once_may_be_left_out(group):
    model, masked = made(Repeats(2, early=True)), {"x": SEQUENCES, "attention_mask": torch.ones(2, 7).long()}
    graph = probe(model, trace(model, {"x": SEQUENCES}))
    name = next(n for n, g in graph.groups.items() if g.kind == group)
    assert graph.groups[name].units == 2 and not graph.rewritten
    plan = Plan({name: (1,)}, "by hand", graph.fingerprint)
    smaller, silenced = cut(model, graph, plan), silence(model, graph, plan)
    assert smaller.each == (1 if group == "queries per group" else 2)
    assert torch.allclose(smaller(**masked), silenced(**masked), atol=1e-5)
    assert torch.allclose(smaller(SEQUENCES), silenced(SEQUENCES), atol=1e-5)


def test_a_trace_by_hand_follows_masks_and_the_examples_of_a_list():
    masked = {"x": SEQUENCES, "attention_mask": torch.ones(2, 7).long()}
    for example in (SEQUENCES, {"x": SEQUENCES}, masked, [{"x": SEQUENCES}, masked]):
        assert len(trace(Repeats(), example).variants) == 1
    assert not trace(Repeats(), SEQUENCES, variants=()).variants


def test_other_inputs_are_padded_unmasked_and_shorter():
    model, mask = OneHeadSize(), torch.ones(2, 7, dtype=torch.int64)
    proposals = list(other_inputs(model, {"x": SEQUENCES, "attention_mask": mask}))
    assert any("attention_mask" not in p for p in proposals)
    assert any("attention_mask" in p and not bool(p["attention_mask"].all()) for p in proposals)
    assert any(p["x"].shape == (2, 5, 16) and p["attention_mask"].shape == (2, 5) for p in proposals)


class TakesList(nn.Module):
    """One list of maps."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, 1).sum(1)


def test_a_list_holds_examples_or_one_argument():
    pair = [SEQUENCES, SEQUENCES[:, :4]]
    assert several_examples(OneHeadSize(), pair)[1] == (pair[1],)
    example, others, note = several_examples(TakesList(), pair)
    assert example == (pair,) and not others and "one argument" in note
