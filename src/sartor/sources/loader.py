"""Batches in a seeded order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from sartor.errors import BadInput


class Samples(Protocol):
    """Samples that are read by number, from 0."""

    def __len__(self) -> int: ...

    def take(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Read samples.

        Args:
            indices: [n] sample numbers.
            generator: of random augmentation; None: no augmentation.

        Returns:
            (inputs [n, ...] as the model takes them, targets [n]).
        """
        ...


class Subset:
    """Some of the samples.

    Args:
        samples: all of them.
        indices: [n] numbers of those that belong to the subset, in its order.
    """

    def __init__(self, samples: Samples, indices: Tensor):
        self.samples, self.indices = samples, indices

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """(inputs, targets); see `Samples`. Sample numbers count within the subset."""
        return self.samples.take(self.indices[indices], generator)


class Loader:
    """Gives batches (inputs, targets). Every iteration gives the same batches until `set_epoch` sets another epoch.

    Batches depend on the arguments and the epoch only, not on earlier iterations or a global random generator.

    Args:
        samples: the samples.
        batch: samples of a batch, >= 1.
        shuffle: a different random order in every epoch.
        augment: augment the samples.
        drop_last: leave out the last batch if it is smaller, unless it is the only one.
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
        shuffle: bool = False,
        augment: bool = False,
        drop_last: bool = False,
        seed: int = 0,
    ):
        if batch < 1:
            raise BadInput(f"loader: expected a batch of at least 1; got {batch}")
        if not len(samples):
            raise BadInput("loader: expected at least one sample; got none")
        self.samples, self.batch = samples, batch
        self.shuffle, self.augment, self.seed, self.epoch = shuffle, augment, seed, 0
        self.drop_last = drop_last and len(samples) >= batch

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch, from 0: it determines order and augmentation."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self.count // self.batch if self.drop_last else -(-self.count // self.batch)

    @property
    def count(self) -> int:
        """Number of samples."""
        return len(self.samples)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.epoch) % 2**63)
        order = torch.randperm(self.count, generator=generator) if self.shuffle else torch.arange(self.count)
        for i in range(len(self)):
            yield self.samples.take(order[i * self.batch : (i + 1) * self.batch], generator if self.augment else None)
