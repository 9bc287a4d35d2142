"""The original and the cut network side by side, as a refit takes them."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from sartor.activations.stepper import Stepper
from sartor.structure.axes import Axis


@dataclass(frozen=True)
class Networks:
    """The original and the cut network, taken operator by operator side by side."""

    before: Stepper  # the original
    after: Stepper  # the cut network
    masks: dict[Axis, Tensor]  # which units stay
    tensors: dict[str, Tensor]  # of the cut network, by name; they are written to


__all__ = ["Networks"]
