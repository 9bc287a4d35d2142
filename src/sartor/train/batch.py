"""Batches of a loader: inputs and targets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from sartor.errors import BadInput
from sartor.structure.example import Example, batch_of, map_tensors

TARGET_KEYS = ("labels", "label")


def split(batch: Any) -> tuple[Example, Any]:
    """The inputs and the targets of one batch of a loader.

    Args:
        batch: a pair `(inputs, targets)`, or a mapping whose key "labels" or "label" holds the targets.

    Returns:
        (inputs, targets): the model can be called with the inputs; those of a mapping are all entries but the targets.

    Raises:
        BadInput: the batch is neither a pair nor a mapping with targets.

    >>> split(([1, 2], [0, 1]))
    ([1, 2], [0, 1])
    >>> split({"input_ids": [[7]], "labels": [1]})
    ({'input_ids': [[7]]}, [1])
    """
    if isinstance(batch, Mapping):
        for key in TARGET_KEYS:
            if key in batch:
                return {k: v for k, v in batch.items() if k != key}, batch[key]
        raise BadInput(
            f"batch: expected a key 'labels' or 'label' beside the inputs; got keys {', '.join(map(str, batch))}"
        )
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return batch[0], batch[1]
    got = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, list | tuple) else type(batch).__name__
    raise BadInput(
        f"batch: expected a pair (inputs, targets) or a mapping with 'labels'; got {got}. "
        "Several inputs go into one tuple or dict: ((a, b), targets)"
    )


def first_samples(batches: Iterable[Any], samples: int) -> Iterator[tuple[Example, Any]]:
    """(inputs, targets) of the first `samples` samples, batch by batch; the last batch is shortened to fit.

    Args:
        batches: as `split` reads them.
        samples: number of samples at most, >= 1.

    >>> data = [(torch.zeros(4, 3), torch.zeros(4)), (torch.zeros(4, 3), torch.zeros(4))]
    >>> [len(targets) for _, targets in first_samples(data, 6)]
    [4, 2]
    """
    if samples < 1:
        raise BadInput(f"samples: expected at least 1; got {samples}")
    count = 0
    for batch in batches:
        inputs, targets = split(batch)
        n = batch_of(inputs)
        remaining = samples - count
        if n > remaining:
            inputs, targets = _head(inputs, n, remaining), _head(targets, n, remaining)
        yield inputs, targets
        count += n
        if count >= samples:
            return


def _head(value: Any, n: int, keep: int) -> Any:
    """Every tensor with n entries in dimension 0 is shortened to `keep`."""
    return map_tensors(lambda t: t[:keep] if t.dim() and t.shape[0] == n else t, value)


def move(value: Any, device: torch.device, *, channels_last: bool = False) -> Any:
    """Every tensor on the device; four-dimensional ones in channels-last memory format if `channels_last`."""

    def one(t: Tensor) -> Tensor:
        t = t.to(device, non_blocking=True)
        if t.is_inference() and torch.is_grad_enabled():
            t = t.clone()  # made in inference mode, it could not be trained on
        return t.contiguous(memory_format=torch.channels_last) if channels_last and t.dim() == 4 else t

    return map_tensors(one, value)
