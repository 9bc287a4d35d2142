"""Calibration samples drawn at random across the batches they came in; the batches stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from sartor.structure.example import Example, batch_of, map_tensors, tensors


class SamplePool:
    """Batches of a chosen size, drawn from calibration batches.

    Samples are mixed within batches whose tensors have equal shapes and dtypes apart from the batch size. A batch with
    a tensor that has no batch dimension (a mask for all samples) is drawn as it is.

    Args:
        batches: calibration inputs.
        size: samples of a drawn batch at most.
        seed: of the order.

    >>> pool = SamplePool([torch.arange(4.0)[:, None], torch.arange(4.0, 8)[:, None]], 3, seed=0)
    >>> sorted(torch.cat(list(pool.passed_once())).flatten().tolist())
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    """

    def __init__(self, batches: Sequence[Example], size: int, seed: int):
        self.batches, self.size = list(batches), size
        self.generator = torch.Generator().manual_seed(seed)
        alike: dict[object, list[int]] = {}
        self.whole: list[int] = []
        for i, batch in enumerate(self.batches):
            n = batch_of(batch)
            if all(t.dim() and t.shape[0] == n for t in tensors(batch)):
                alike.setdefault(tuple((t.shape[1:], t.dtype) for t in tensors(batch)), []).append(i)
            else:
                self.whole.append(i)
        self.alike = [[(i, j) for i in group for j in range(batch_of(self.batches[i]))] for group in alike.values()]

    @property
    def steps(self) -> int:
        """Batches that one pass draws."""
        return len(self.whole) + sum(-(-len(places) // self.size) for places in self.alike)

    def passed_once(self) -> Iterator[Example]:
        """Every sample once, in an order of its own in each pass."""
        drawn: list[list[tuple[int, int]] | int] = list(self.whole)
        for places in self.alike:
            order = [places[k] for k in torch.randperm(len(places), generator=self.generator).tolist()]
            drawn += [order[low : low + self.size] for low in range(0, len(order), self.size)]
        for k in torch.randperm(len(drawn), generator=self.generator).tolist():
            which = drawn[k]
            yield self.batches[which] if isinstance(which, int) else self._gathered(which)

    def _gathered(self, places: Sequence[tuple[int, int]]) -> Example:
        columns = {i: list(tensors(self.batches[i])) for i in {i for i, _ in places}}
        at = iter(range(len(next(iter(columns.values())))))

        def gather(_: Tensor) -> Tensor:
            k = next(at)
            return torch.stack([columns[i][k][j] for i, j in places])

        return map_tensors(gather, self.batches[places[0][0]])


__all__ = ["SamplePool"]
