"""Samples in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sartor.errors import BadInput

Augment = Callable[[Tensor, torch.Generator], Tensor]


class TensorSamples:
    """Inputs and targets in two tensors; a batch is scaled and normalised when it is taken.

    Args:
        inputs: [n, ...]; uint8 values are divided by 255, other values are not scaled.
        targets: [n].
        mean, std: one number for every channel (dimension 1), or one for all. After scaling, the mean is subtracted
            and the result divided by std.
        augment: applied before scaling.

    Raises:
        BadInput: lengths differ, or mean and std do not match the channels.
    """

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        augment: Augment | None = None,
    ):
        if len(inputs) != len(targets):
            raise BadInput(f"samples: expected as many targets as inputs; got {len(targets)} and {len(inputs)}")
        self.inputs, self.targets, self.augment = inputs, targets, augment
        channels = inputs.shape[1] if inputs.dim() > 1 else 1
        scale = 255.0 if inputs.dtype == torch.uint8 else 1.0
        self._shift = _per_channel(mean or (0.0,), channels, inputs.dim(), "mean") * scale
        self._factor = 1 / (_per_channel(std or (1.0,), channels, inputs.dim(), "std") * scale)
        self._plain = bool((self._shift == 0).all() and (self._factor == 1).all())

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, indices: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """(inputs [n, ...], targets [n]); see `Samples`."""
        raw = self.inputs[indices]
        if generator is not None and self.augment is not None:
            raw = self.augment(raw, generator)
        if not self._plain:
            raw = raw.to(torch.float32).sub_(self._shift).mul_(self._factor)
        return raw, self.targets[indices]


def _per_channel(values: Sequence[float], channels: int, dims: int, name: str) -> Tensor:
    if len(values) not in (1, channels):
        raise BadInput(f"{name}: expected 1 or {channels} numbers for {channels} channels; got {list(values)}")
    if name == "std" and not all(v > 0 for v in values):
        raise BadInput(f"std: expected numbers > 0; got {list(values)}")
    t = torch.tensor(values, dtype=torch.float32)
    return t.reshape(1, -1, *[1] * (dims - 2)) if dims > 1 else t
