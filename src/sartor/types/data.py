"""What a run learns from and is judged by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

Batches = Iterable[Any]  # each a pair (inputs, targets), or a mapping that names its targets


@dataclass(frozen=True)
class Data:
    """The parts of a data set, each an iterable of batches that can be read more than once; None: there is none."""

    train: Batches | None = None  # trained on
    val: Batches | None = None  # quality is judged on it; never trained on
    test: Batches | None = None  # only reported; no decision looks at it
    calibration: Batches | None = None  # scores and repair read it, best without augmentation; None: `train` serves

    @property
    def for_scores(self) -> Batches | None:
        """What scores and repair read: the calibration part, else the training part."""
        return self.calibration if self.calibration is not None else self.train


@dataclass(frozen=True)
class Judge:
    """What counts as good."""

    loss: Callable[[Any, Any], Tensor] | None = None  # loss(outputs, targets) -> scalar; None: cross entropy
    evaluate: Callable[[nn.Module], float] | None = (
        None  # larger is better; None: top-1 accuracy on `Data.val`, percent
    )
    metric: str = "accuracy"  # what `evaluate` or `measure` is called in the report
    measure: Callable[[nn.Module, Batches], float] | None = None
    # quality on a part of the data, larger is better; None: top-1 accuracy in percent. `evaluate` goes before
