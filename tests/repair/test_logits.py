"""Queries and keys refitted where the width of heads is cut: their products come closer to the original's."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.activations.attention_logits import attention_logits
from sartor.activations.follow import replay
from sartor.repair import Original, RidgeOptions, refit_consumers_
from sartor.repair.gap import output_gap, outputs
from sartor.seed import seeded
from sartor.structure import trace
from sartor.structure.axes import find
from sartor.surgery import cut
from sartor.types import Plan

WIDTH, TOKENS, CHANNELS = 8, 7, 24


class Attention(nn.Module):
    """Attention of a block as several libraries write it, a residual sum, and a head.

    Args:
        form: "fused" one layer gives queries, keys and values, as in timm; "separate" three, as in BERT; "grouped" two
            heads of keys for four of queries, as in Llama; "eager" products and softmax written out.
        rank: of the queries of a head; None: full.
    """

    def __init__(self, form: str, rank: int | None = None):
        super().__init__()
        self.form, self.heads, self.width = form, 4, WIDTH
        self.shared = 2 if form == "grouped" else 4
        out = self.heads * WIDTH
        if form == "fused":
            self.qkv = nn.Linear(CHANNELS, 3 * out)
        else:
            bias = form != "grouped"
            self.q = nn.Linear(CHANNELS, out, bias=bias)
            self.k, self.v = (nn.Linear(CHANNELS, self.shared * WIDTH, bias=bias) for _ in range(2))
        self.up, self.down = nn.Linear(CHANNELS, 16), nn.Linear(16, CHANNELS)
        self.o, self.out = nn.Linear(out, CHANNELS), nn.Linear(CHANNELS, 5)
        if rank is not None:
            self._lower(rank)
        with torch.no_grad():  # scores that matter
            for name in ("qkv", "q", "k"):
                if hasattr(self, name):
                    getattr(self, name).weight.mul_(3.0)

    def _lower(self, rank: int) -> None:
        layer = self.qkv if self.form == "fused" else self.q
        with torch.no_grad():
            for h in range(self.heads):
                mix = torch.randn(WIDTH, rank) @ torch.randn(rank, WIDTH) / math.sqrt(WIDTH * rank)
                rows = slice(h * WIDTH, (h + 1) * WIDTH)
                layer.weight[rows] = mix @ layer.weight[rows]
                if layer.bias is not None:
                    layer.bias[rows] = mix @ layer.bias[rows]

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        x = x + self.down(F.relu(self.up(x)))
        if self.form == "fused":
            q, k, v = self.qkv(x).reshape(n, t, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        else:
            q = self.q(x).view(n, t, self.heads, self.width).transpose(1, 2)
            k = self.k(x).view(n, t, self.shared, self.width).transpose(1, 2)
            v = self.v(x).view(n, t, self.shared, -1).transpose(1, 2)
        if self.form == "grouped":
            k, v = (z.repeat_interleave(self.heads // self.shared, 1) for z in (k, v))
        if self.form == "eager":
            y = ((q * 0.35) @ k.transpose(-2, -1)).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v, scale=0.35)
        return self.out((x + self.o(y.transpose(1, 2).flatten(2))).mean(1))


FORMS = ("fused", "separate", "grouped", "eager")


def batches(n: int = 6, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(CHANNELS, CHANNELS, generator=torch.Generator().manual_seed(9)) / math.sqrt(CHANNELS)
    return [torch.randn(32, TOKENS, CHANNELS, generator=g) @ mix + 0.3 for _ in range(n)]


def half_width(form: str, rank: int | None = None, inner: int = 4, hidden: bool = False):
    """(network, graph, plan): the width of queries and keys is cut, with `hidden` also what the layers before read."""
    with seeded(1):
        model = Attention(form, rank).eval()
    graph = trace(model, batches(1)[0][:1])
    site = attention_logits(graph)[0]
    leaf = next(
        n for n, a in graph.leaves.items()
        if graph.groups[n].units == WIDTH and find(graph.ops[site.op].args[0].axes[-1]) is find(a)
    )  # fmt: skip
    keep = {leaf: tuple(range(inner))}
    if hidden:
        keep |= {n: tuple(range(0, 16, 2)) for n, g in graph.groups.items() if g.units == 16}
    return model, graph, Plan(keep, "test", graph.fingerprint)


def products(model: nn.Module, x: Tensor) -> Tensor:
    """What the softmax sees, apart from a constant of each query: [samples, heads, positions, positions]."""
    graph = trace(model, x[:1])
    site = attention_logits(graph)[0]
    seen: list[Tensor] = []

    def visit(op, args, kwargs, out):
        if op.index == site.op:
            q, k = (t.double() for t in args[:2])
            seen.append(q @ (k if site.transposed else k.transpose(-2, -1)))

    replay(graph, model, x, visit)
    return seen[0] - seen[0].mean(-1, keepdim=True)


def repaired(model, graph, plan, *, logits: bool) -> nn.Module:
    smaller = cut(model, graph, plan)
    refit_consumers_(smaller, Original(model, graph, plan), batches(), options=RidgeOptions(logits=logits))
    return smaller


def far(a: Tensor, b: Tensor) -> float:
    return float((a - b).square().sum() / b.square().sum())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("hidden", [False, True])
def test_products_on_inputs_never_seen_come_closer(form: str, hidden: bool) -> None:
    model, graph, plan = half_width(form, hidden=hidden)
    new = batches(1, seed=5)[0]
    wanted = products(model, new)
    without, with_ = (far(products(repaired(model, graph, plan, logits=x), new), wanted) for x in (False, True))
    assert with_ < 0.7 * without


@pytest.mark.parametrize("form", FORMS)
def test_products_of_a_low_rank_are_recovered(form: str) -> None:
    model, graph, plan = half_width(form, rank=2 if form == "grouped" else 4)  # two heads share a width of four
    new = batches(1, seed=5)[0]
    wanted = products(model, new)
    without, with_ = (repaired(model, graph, plan, logits=x) for x in (False, True))
    assert far(products(without, new), wanted) > 0.05
    assert far(products(with_, new), wanted) < 1e-4
    if form != "fused":  # there, values are cut with queries and keys
        targets = outputs(model, [new])
        assert output_gap(with_, [new], targets) < 1e-4 < output_gap(without, [new], targets)


def test_a_whole_width_is_left_to_the_refit() -> None:
    model, graph, plan = half_width("separate", inner=WIDTH, hidden=True)
    with_, without = (repaired(model, graph, plan, logits=x) for x in (True, False))
    assert all(torch.equal(t, without.state_dict()[n]) for n, t in with_.state_dict().items())


def test_heads_are_read_off_the_layout_and_those_that_share_keys_belong_together() -> None:
    graph = half_width("separate")[1]
    site = attention_logits(graph)[0]
    assert site.scale(graph.ops) == pytest.approx(0.35)
    query, key = site.query.features, site.key.features
    assert query.tolist() == [list(range(h * WIDTH, (h + 1) * WIDTH)) for h in range(4)] == key.tolist()
    assert [heads for heads, _ in site.heads] == [(0,), (1,), (2,), (3,)]
    shared = attention_logits(half_width("grouped")[1])[0]
    assert [heads for heads, _ in shared.heads] == [(0, 1), (2, 3)]


class Turned(Attention):
    """Queries and keys are turned by their position, so their numbers cannot be mixed freely."""

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (z(x).view(n, t, 4, WIDTH).transpose(1, 2) for z in (self.q, self.k, self.v))
        angle = torch.arange(t)[:, None] * torch.ones(WIDTH)
        q, k = (z * angle.cos() + torch.cat([-z[..., 4:], z[..., :4]], -1) * angle.sin() for z in (q, k))
        return self.out((x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))).mean(1))


def test_queries_that_are_turned_by_position_are_not_mixed() -> None:
    assert not attention_logits(trace(Turned("separate").eval(), batches(1)[0][:1]))
