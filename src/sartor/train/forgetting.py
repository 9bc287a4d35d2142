"""Forgetting events: which samples a network unlearns while it trains, and which it can do without."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sartor.errors import BadInput


class ForgettingCounts:
    """Counts, for every sample, how often it was classified correctly and then wrongly again.

    Call `update` with every batch of the first part of a training; then train on `kept(drop)` alone:

        counts = ForgettingCounts(len(data))
        for index, x, y in batches_of_the_first_epochs:
            ...
            counts.update(index, model(x).argmax(1) == y)
        rest = torch.utils.data.Subset(data, counts.kept(12_000).tolist())

    Source: Toneva et al. 2019, arXiv:1812.05159; to make sparse training cheaper Yuan et al. 2021 (MEST),
    arXiv:2110.14032, which counts during the first 70 of 160 epochs.

    >>> counts = ForgettingCounts(3)
    >>> for correct in ([True, False, True], [False, False, True], [True, False, True]):
    ...     counts.update(torch.arange(3), torch.tensor(correct))
    >>> counts.events, counts.kept(1)
    (tensor([1, 0, 0]), tensor([0, 1]))
    """

    def __init__(self, samples: int):
        if samples < 1:
            raise BadInput(f"forgetting counts: expected at least one sample; got {samples}")
        self.events = torch.zeros(samples, dtype=torch.int64)  # correct -> wrong
        self.correct = torch.zeros(samples, dtype=torch.bool)  # when it was seen last
        self.learned = torch.zeros(samples, dtype=torch.bool)  # ever classified correctly

    def update(self, index: Tensor, correct: Tensor) -> None:
        """One batch.

        Args:
            index: [batch], numbers of its samples, each at most once.
            correct: bool [batch], whether they are classified correctly.

        Raises:
            BadInput: shapes differ, a number is none of a sample, or comes twice.
        """
        index, correct = index.cpu().long(), correct.cpu().bool()
        inside = index.numel() == 0 or (int(index.min()) >= 0 and int(index.max()) < len(self.events))
        if index.shape != correct.shape or index.ndim != 1 or not inside or len(index.unique()) != len(index):
            raise BadInput(
                f"forgetting counts: expected different sample numbers in [0, {len(self.events)}) and as many results; "
                f"got {list(index.shape)} and {list(correct.shape)}"
            )
        self.events[index] += (self.correct[index] & ~correct).long()
        self.correct[index] = correct
        self.learned[index] |= correct

    def kept(self, drop: int) -> Tensor:
        """The samples that stay once the least forgotten are dropped; those never learned count as the most forgotten.

        Args:
            drop: number of samples to drop; ties are dropped in the order of their numbers.

        Returns:
            int64 [samples - drop], sorted.

        Raises:
            BadInput: nothing would be left, or `drop` is negative.
        """
        if not 0 <= drop < len(self.events):
            raise BadInput(f"forgetting counts: expected to drop 0 to {len(self.events) - 1} samples; got {drop}")
        rank = torch.where(self.learned, self.events, torch.iinfo(torch.int64).max)
        return rank.argsort(stable=True)[drop:].sort().values

    def state_dict(self) -> dict[str, Tensor]:
        """For a checkpoint."""
        return {"events": self.events.clone(), "correct": self.correct.clone(), "learned": self.learned.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """The inverse, for as many samples."""
        for name, t in state.items():
            getattr(self, name).copy_(t)


__all__ = ["ForgettingCounts"]
