"""Forwards that branch on values, and parts whose result reaches no output."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.testing.zoo.case import Head, case, conv_bn, images, rows


@case("dead-pooler", rows(6, 12), exact=False, source="Radford et al. 2021, arXiv:2103.00020")
class DeadPooler(nn.Module):
    """A tower that also normalises its first token, which this task leaves aside."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.wide, self.narrow = (
            nn.Linear(12, 10), nn.LayerNorm(10), nn.Linear(10, 16), nn.Linear(16, 10),
        )  # fmt: skip
        self.pooled, self.project, self.out = nn.LayerNorm(10), nn.Linear(20, 4), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        x = x + self.narrow(F.gelu(self.wide(self.norm(x))))
        self.project(torch.cat([self.pooled(x[:, 0]), x[:, -1] * 2], 1))
        return self.out(x.mean(1))


@case("dropped-state", rows(5, 6), source="Joshi et al. 2019, arXiv:1906.01227")
class DroppedState(nn.Module):
    """Nodes and pairs change each other; after the last layer only the pairs are read."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes, self.pairs = nn.Linear(6, 8), nn.Linear(1, 8)
        self.sent, self.seen = (nn.ModuleList(nn.Linear(8, 8) for _ in range(2)) for _ in range(2))
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.nodes(x)
        e = self.pairs((x[:, :, None] - x[:, None]).square().sum(-1, keepdim=True))
        for sent, seen in zip(self.sent, self.seen):
            e = e + seen(h)[:, None].relu()
            h = h + (e.sigmoid() * sent(h)[:, None]).mean(2)  # of the last layer, nothing reads this
        return self.out(e.mean((1, 2)))


@case("early-exit", images(), source="Teerapittayanon et al. 2016, arXiv:1709.01686")
class EarlyExit(nn.Module):
    """The first head decides by its confidence whether the second stage runs; both heads read the same channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.exit = conv_bn(3, 8), nn.Sequential(Head(8, 7), nn.ReLU(), nn.Linear(7, 5))
        self.deeper, self.head = conv_bn(8, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        first = self.exit(x)
        if bool((first.softmax(1).amax(1) > 0.99999).all()):
            return first
        return self.head(self.deeper(x))


@case("optional-mask", rows(6, 12), exact=False)
class OptionalMask(nn.Module):
    """Attention that takes a mask of the padding, or none; with a mask it calls operators that it does not without."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 3, 4
        self.embed, self.q, self.k, self.v = (nn.Linear(12, 10), *(nn.Linear(10, 12) for _ in range(3)))
        self.o, self.wide, self.narrow, self.out = (
            nn.Linear(12, 10),
            nn.Linear(10, 14),
            nn.Linear(14, 10),
            nn.Linear(10, 5),
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        x = self.embed(x)
        q, k, v = (f(x).unflatten(2, (self.heads, self.width)).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = 0.5 * (q @ k.transpose(2, 3))
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None, None], -1e4)
        x = x + self.o((scores.softmax(3) @ v).transpose(1, 2).flatten(2))
        x = x + self.narrow(F.relu(self.wide(x)))
        if mask is not None:
            x = x * mask[:, :, None]
        return self.out(x.mean(1))


@case(
    "lengths", lambda: (rows(7, 12)(), torch.tensor([7, 5])), exact=False, source="Gulati et al. 2020, arXiv:2005.08100"
)
class Lengths(nn.Module):
    """Attention over padded samples; the mask is made from their lengths, and is as long as the longest."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attention = nn.Linear(12, 16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        padded = torch.arange(int(lengths.max()), device=x.device)[None] >= lengths[:, None]
        x = self.embed(x)
        x = x + self.attention(x, x, x, key_padding_mask=padded, need_weights=False)[0]
        return self.out(x.masked_fill(padded[:, :, None], 0.0).sum(1))


@case("loop-by-input", lambda: (rows(12)(), torch.tensor([2, 3])))
class LoopByInput(nn.Module):
    """One block is applied as often as the first entry of an input says."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.narrow, self.out = (
            nn.Linear(12, 8),
            nn.Linear(8, 14),
            nn.Linear(14, 8),
            nn.Linear(8, 5),
        )

    def forward(self, x: Tensor, rounds: Tensor) -> Tensor:
        x = self.stem(x)
        for _ in range(int(rounds[0])):
            x = x + 0.5 * self.narrow(F.relu(self.wide(x)))
        return self.out(x)
