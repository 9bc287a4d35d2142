"""Batches that are joined before a criterion is called: scores then do not depend on how the data were batched."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping

import torch
from torch import Tensor

from sartor.activations.micro_batches import working_memory

Call = Callable[[Hashable, Tensor, Tensor | None], None]


class JoinedActivations:
    """Activations by place, given to a criterion `batch` samples at a time whatever the batches they came in.

    Fewer than `batch` come together at the end of the data, where the shape of activations changes, and where what
    waits would take more memory than a pass may use.
    """

    def __init__(self, batch: int, call: Call, memory: int | None = None):
        self.batch, self.call = batch, call
        self.memory = working_memory() if memory is None else memory
        self.waiting: dict[Hashable, tuple[Tensor, Tensor | None]] = {}

    def add(self, key: Hashable, activation: Tensor, labels: Tensor | None) -> None:
        """Some samples of one place: [units, samples, rest] and, if the criterion reads them, [samples]."""
        if key in self.waiting and self.waiting[key][0].shape[2] != activation.shape[2]:
            self.call(key, *self.waiting.pop(key))
        if key in self.waiting:
            before, before_labels = self.waiting.pop(key)
            activation = torch.cat([before, activation], 1)
            labels = None if labels is None or before_labels is None else torch.cat([before_labels, labels])
        n = activation.shape[1]
        whole = n - n % self.batch
        for low in range(0, whole, self.batch):
            self.call(key, *_between(activation, labels, low, low + self.batch))
        if whole < n:
            rest, rest_labels = _between(activation, labels, whole, n)
            self.waiting[key] = (rest.clone(), rest_labels)  # the forward may go on writing to what it showed
            if sum(a.numel() * a.itemsize for a, _ in self.waiting.values()) > self.memory:
                self.flush()

    def flush(self) -> None:
        """Call the criterion on what waits."""
        for key, waiting in self.waiting.items():
            self.call(key, *waiting)
        self.waiting = {}


class JoinedGradients:
    """Mean gradients of at least `batch` samples, from those of batches."""

    def __init__(self, batch: int):
        self.batch, self.n = batch, 0
        self.sums: dict[str, Tensor] = {}

    def add(self, grads: Mapping[str, Tensor], n: int) -> Iterator[tuple[dict[str, Tensor], int]]:
        """Add the mean gradients of n samples; (mean gradients, samples), once enough have come."""
        for name, g in grads.items():
            self.sums[name] = self.sums[name] + g * n if name in self.sums else g * n
        self.n += n
        if self.n >= self.batch:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[dict[str, Tensor], int]]:
        """What has come since, if anything has."""
        if self.n:
            grads, n = {name: s / self.n for name, s in self.sums.items()}, self.n
            self.sums, self.n = {}, 0
            yield grads, n


def _between(activation: Tensor, labels: Tensor | None, low: int, high: int) -> tuple[Tensor, Tensor | None]:
    return activation[:, low:high], None if labels is None else labels[low:high]
