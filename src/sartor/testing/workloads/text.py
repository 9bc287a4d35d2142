"""Texts with several labels, and word problems over sets of quantities."""

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

WORDS, LABELS = 40, 6


class GeneratedClassifiers(nn.Module):
    """Texts read by a bidirectional LSTM; the classifier of each label is written by attention over related labels."""

    related: Tensor

    def __init__(self, width: int = 16, hidden: int = 12, heads: int = 2):
        super().__init__()
        self.heads = heads
        self.words, self.reader = (
            nn.Embedding(WORDS, width),
            nn.LSTM(width, hidden, bidirectional=True, batch_first=True),
        )
        self.labels = nn.Parameter(torch.randn(LABELS, width))
        self.project, self.out = nn.Linear(width, 2 * width), nn.Linear(2 * width, 2 * hidden)
        self.source, self.target = nn.Linear(2 * width, heads), nn.Linear(2 * width, heads)
        related = (torch.arange(LABELS)[:, None] - torch.arange(LABELS)).abs() <= 1
        self.register_buffer("related", related)

    def forward(self, tokens: Tensor) -> Tensor:
        """Words [n, length] -> logits [n, labels]."""
        read, _ = self.reader(self.words(tokens))
        return read.amax(1) @ self._classifiers().T

    def _classifiers(self) -> Tensor:
        """[labels, 2 * hidden], generated from the labels' own embeddings."""
        h = self.project(self.labels)
        score = F.leaky_relu(self.source(h)[:, None] + self.target(h)[None], 0.2)  # [labels, labels, heads]
        weight = score.masked_fill(~self.related[..., None], -1e9).softmax(1)
        each = h.view(LABELS, self.heads, -1)
        mixed = torch.einsum("ijh,jhc->ihc", weight, each).reshape(LABELS, -1)
        return self.out(F.elu(mixed))


def texts(n: int, seed: int, length: int = 12) -> tuple[Tensor, Tensor]:
    """Random words, some of which stand for a label; and which labels a text has (0 or 1)."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(2 * LABELS, WORDS, (n, length), generator=generator)
    has = torch.rand(n, LABELS, generator=generator) < 0.3
    for label in range(LABELS):
        place = torch.randint(length // LABELS, (n,), generator=generator) + label * (length // LABELS)
        word = 2 * label + torch.randint(2, (n,), generator=generator)
        tokens[torch.arange(n), place] = torch.where(has[:, label], word, tokens[torch.arange(n), place])
    return tokens, has.float()


@workload("gat-text", field="text", source="arXiv:2003.11644", preserves="texts of a batch do not see each other")
class GatText(Workload):
    """Multi-label text classification with classifiers that graph attention writes from the labels."""

    quality_name = "F1 (%)"
    lr = 1e-2
    warm_up = 3

    def network(self) -> nn.Module:
        return GeneratedClassifiers()

    def examples(self) -> Sequence[Example]:
        return [texts(2, 0)[0], texts(3, 1, 18)[0], texts(1, 2, 7)[0]]

    def data(self) -> Data:
        return two_parts(texts, (192, 96), 16, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return F.binary_cross_entropy_with_logits

    def score(self, output: Any, targets: Any) -> float:
        yes, true = output > 0, targets > 0.5
        return 200 * float((yes & true).sum()) / max(1, int(yes.sum() + true.sum()))

    def violation(self, model: nn.Module) -> float:
        batch = self.examples()[1]
        with torch.no_grad():
            return difference(model(batch[:2]), model(batch)[:2])


class DeductiveSolver(nn.Module):
    """A problem's words read by a GRU; its quantities, a set, are combined in steps that the question conditions."""

    def __init__(self, width: int = 16, hidden: int = 24, operations: int = 4, steps: int = 2):
        super().__init__()
        self.words, self.reader = nn.Embedding(WORDS, width), nn.GRU(width, hidden, batch_first=True)
        self.question = nn.Linear(hidden, hidden)
        self.alone = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(steps))
        self.others = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(steps))
        self.whole, self.out = nn.Linear(hidden, hidden), nn.Linear(hidden, operations)

    def forward(self, tokens: Tensor, places: Tensor) -> Tensor:
        """Words [n, length], places of the quantities [n, quantities] -> scores of operations [n, operations]."""
        read, last = self.reader(self.words(tokens))
        asked = self.question(last[-1]).relu()
        q = read.gather(1, places[..., None].expand(-1, -1, read.shape[-1]))
        for alone, others in zip(self.alone, self.others):
            q = q + (alone(q) + (others(q.sum(1) + asked))[:, None]).relu()
        return self.out(self.whole(q).relu().sum(1))


def problems(n: int, seed: int, length: int = 10, quantities: int = 3) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Words with quantities at some places and a question at the end that decides the operation."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(8, WORDS, (n, length), generator=generator)
    places = torch.stack([torch.randperm(length - 1, generator=generator)[:quantities] for _ in range(n)])
    kind = torch.randint(2, (n,), generator=generator)
    tokens.scatter_(1, places, kind[:, None].expand(-1, quantities))
    question = torch.randint(2, (n,), generator=generator)
    tokens[:, -1] = 2 + question
    return (tokens, places), 2 * question + kind


@workload(
    "deductive-solver",
    field="text",
    source="Question-aware deductive solver with Deep Sets",
    preserves="the order of the quantities does not matter",
)
class Solver(Workload):
    """Math word problems: quantities as a set, combined under the question that is asked."""

    lr = 1e-2
    warm_up = 2

    def network(self) -> nn.Module:
        return DeductiveSolver()

    def examples(self) -> Sequence[Example]:
        return [problems(2, 0)[0], problems(3, 1, 14, 5)[0], problems(1, 2, 7, 2)[0]]

    def data(self) -> Data:
        return two_parts(problems, (192, 96), 16, self.seed)

    def violation(self, model: nn.Module) -> float:
        tokens, places = self.examples()[1]
        with torch.no_grad():
            return difference(model(tokens, places.flip(1)), model(tokens, places))
