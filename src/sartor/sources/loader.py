"""Batches in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from sartor.errors import BadInput


class Samples(Protocol):
    """Samples that can be taken by number."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """(inputs [n, ...] as the model wants them, targets [n]); augmented by the generator if there is one."""
        ...


class Loader:
    """Gives (inputs, targets) batches; iterating twice gives the same batches, `set_epoch` gives others.

    A value in all but the epoch: nothing depends on what was iterated before, or on any global generator.

    Args:
        samples: where they come from.
        batch: samples a batch, >= 1.
        indices: [n] which samples; None: all.
        shuffle: another order every epoch.
        augment: let the samples be augmented.
        drop_last: leave out a last smaller batch, unless it is the only one.
        seed: of order and augmentation.

    >>> from sartor.sources.tensors import TensorSamples
    >>> data = TensorSamples(torch.arange(5.0), torch.arange(5))
    >>> [y.tolist() for _, y in Loader(data, batch=2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        samples: Samples,
        *,
        batch: int,
        indices: Tensor | None = None,
        shuffle: bool = False,
        augment: bool = False,
        drop_last: bool = False,
        seed: int = 0,
    ):
        if batch < 1:
            raise BadInput(f"loader: expected a batch of at least 1; got {batch}")
        self.samples, self.batch = samples, batch
        self.indices = torch.arange(len(samples)) if indices is None else indices
        if not len(self.indices):
            raise BadInput("loader: expected at least one sample; got none")
        self.shuffle, self.augment, self.seed, self.epoch = shuffle, augment, seed, 0
        self.drop_last = drop_last and len(self.indices) >= batch

    def set_epoch(self, epoch: int) -> None:
        """Order and augmentation of this epoch, from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches an epoch."""
        n = len(self.indices)
        return n // self.batch if self.drop_last else -(-n // self.batch)

    @property
    def count(self) -> int:
        """Samples it draws from."""
        return len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = self.indices
        if self.shuffle:
            order = order[torch.randperm(len(order), generator=generator)]
        for i in range(len(self)):
            yield self.samples.take(order[i * self.batch : (i + 1) * self.batch], generator if self.augment else None)
