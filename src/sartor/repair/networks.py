"""The original and the cut network side by side, as a refit takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from sartor.activations.stepper import Stepper
from sartor.structure.axes import Axis, keep_mask
from sartor.structure.calls import Value


@dataclass(frozen=True)
class Networks:
    """The original and the cut network, taken operator by operator side by side."""

    before: Stepper  # the original
    after: Stepper  # the cut network
    masks: dict[Axis, Tensor]  # which units stay
    tensors: dict[str, Tensor]  # of the cut network, by name; they are written to


def shrunk(value: Value, tensor: Tensor, masks: Mapping[Axis, Tensor], dims: int | None = None) -> Tensor:
    """A tensor of the original as it is in the cut network.

    Args:
        value: of the original.
        tensor: its numbers.
        masks: which units stay.
        dims: how many dimensions are cut, from the front; None: all. Negative numbers count from the back.
    """
    for d, axis in enumerate(value.axes[:dims]):
        keep = keep_mask(axis, masks)
        if not bool(keep.all()):
            tensor = tensor.index_select(d, keep.nonzero()[:, 0].to(tensor.device))
    return tensor


__all__ = ["Networks", "shrunk"]
