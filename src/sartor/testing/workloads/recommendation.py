"""Clicks predicted from tables of embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.structure.example import Example
from sartor.testing.workloads.pictures import two_parts
from sartor.testing.workloads.workload import Workload, difference, workload
from sartor.types import Data

FIELDS, ROWS = 6, 20


class Cross(nn.Module):
    """Features times a linear map of them; half of it is masked by its own norm."""

    def __init__(self, width: int):
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width // 2, bias=False), nn.LayerNorm(width // 2)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, by: Tensor, x: Tensor) -> Tensor:
        c = self.linear(x)
        return by * (torch.cat([c, c * self.norm(c).relu()], -1) + self.bias) + x


class FusedCross(nn.Module):
    """A linear and an exponential cross network over the embeddings of all fields."""

    offsets: Tensor

    def __init__(self, width: int = 8, layers: int = 2):
        super().__init__()
        self.table = nn.Embedding(FIELDS * ROWS, width)
        self.register_buffer("offsets", torch.arange(FIELDS) * ROWS)
        whole = FIELDS * width
        self.linear, self.exponential = (nn.ModuleList(Cross(whole) for _ in range(layers)) for _ in range(2))
        self.heads = nn.ModuleList(nn.Linear(whole, 1) for _ in range(2))

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Row of each field [n, fields] -> logits [n]: their mean, of the linear, of the exponential network."""
        first = a = b = self.table(ids + self.offsets).flatten(1)
        for linear, exponential in zip(self.linear, self.exponential):
            a, b = linear(first, a), exponential(b, b)
        shallow, deep = self.heads[0](a)[:, 0], self.heads[1](b)[:, 0]
        return (shallow + deep) / 2, shallow, deep


def clicks(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of fields, and clicks that depend on products of hidden tastes of two fields each."""
    taste = torch.randn(FIELDS, ROWS, generator=torch.Generator().manual_seed(7))
    generator = torch.Generator().manual_seed(seed)
    ids = (torch.rand(n, FIELDS, generator=generator).square() * ROWS).long()
    hidden = taste[torch.arange(FIELDS), ids]
    logits = 1.5 * (hidden[:, 0] * hidden[:, 1] + hidden[:, 2] * hidden[:, 3]) + hidden[:, 4]
    return ids, (torch.rand(n, generator=generator) < logits.sigmoid()).float()


def area_under_curve(scores: Tensor, truth: Tensor) -> float:
    """The share of pairs of a click and no click that are in the right order, in percent; ties count half."""
    true, false = scores[truth > 0.5], scores[truth < 0.5]
    right = (true[:, None] > false).double() + 0.5 * (true[:, None] == false).double()
    return 100 * float(right.mean())


@workload("fcn", field="recommendation", source="arXiv:2407.13349", preserves="clicks of a batch do not see each other")
class Fcn(Workload):
    """Click-through prediction by cross networks; the bytes are those of the table of embeddings."""

    quality_name = "AUC (%)"
    budget = "bytes"
    lr = 1e-2
    warm_up = 4

    def network(self) -> nn.Module:
        return FusedCross()

    def examples(self) -> Sequence[Example]:
        return [clicks(n, i)[0] for i, n in enumerate((4, 1, 9))]

    def data(self) -> Data:
        return two_parts(clicks, (4096, 1024), 128, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        def of_three(output: Any, targets: Tensor) -> Tensor:
            whole, shallow, deep = (F.binary_cross_entropy_with_logits(y, targets) for y in output)
            return whole + (shallow - whole).clamp(min=0) + (deep - whole).clamp(min=0)

        return of_three

    def quality(self, model: nn.Module, batches: Sequence[Any]) -> float:
        with torch.no_grad():
            pairs = [(model(ids)[0], truth) for ids, truth in batches]
        return area_under_curve(torch.cat([p for p, _ in pairs]), torch.cat([t for _, t in pairs]))

    def violation(self, model: nn.Module) -> float:
        ids = self.examples()[2]
        with torch.no_grad():
            return difference(model(ids[:3])[0], model(ids)[0][:3])
