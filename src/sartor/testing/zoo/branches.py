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
