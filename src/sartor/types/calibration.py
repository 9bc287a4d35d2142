"""What scores and repair read: calibration data, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from sartor.errors import BadInput
from sartor.types.data import Batches

Loss = Callable[[Any, Any], Tensor]  # loss(outputs, targets) -> scalar, a mean over samples
Precision = Literal["float32", "bfloat16"]  # of a forward: the model's own, or autocast


@dataclass(frozen=True)
class Calibration:
    """A calibration set, and how scores, gates and repair read it."""

    batches: Batches | None = None  # pairs (inputs, targets); None: there is no calibration data
    _: KW_ONLY
    loss: Loss | None = None
    # None: cross entropy for gradients, the squared distance from the original's outputs where units are silenced
    samples: int = 2000  # read at most; criteria that need fewer read fewer
    seed: int = 0  # of everything that is drawn
    precision: Precision = "float32"
    passes: int = 1000  # forward passes at most for criteria that silence units, shared by the groups
    pass_samples: int = 128  # samples of each of those passes, the first ones

    def __post_init__(self) -> None:
        check_precision(self.precision)
        for name in ("samples", "passes", "pass_samples"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name}: expected at least 1; got {getattr(self, name)}")


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        BadInput: it is none of those that exist.
    """
    if precision not in get_args(Precision):
        raise BadInput(f"precision: expected one of {', '.join(get_args(Precision))}; got {precision!r}")
