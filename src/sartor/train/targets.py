"""Checks of targets beside the outputs of a classifier."""

from __future__ import annotations

from torch import Tensor

from sartor.errors import BadInput

_ROW_SUM = 1e-3  # shares of classes add up to 1 within this


def is_distribution(targets: Tensor) -> bool:
    """Whether dimension 1 holds shares of classes, [n, classes, ...]: none is negative and they add up to 1."""
    return bool((targets >= 0).all()) and bool(((targets.sum(1).double() - 1).abs() <= _ROW_SUM).all())


def check_classes(logits: Tensor, targets: Tensor, where: str) -> None:
    """Refuse class numbers that the network has no output for; negative ones are ignored by cross entropy.

    Args:
        logits: [n, classes, ...].
        targets: class numbers [n, ...].
        where: for the message.
    """
    if targets.numel() and logits.dim() >= 2 and int(targets.max()) >= logits.shape[1]:
        raise BadInput(
            f"{where}: expected class numbers below {logits.shape[1]}, the number of the network's outputs; got "
            f"{int(targets.max())}. Give the network whose head has these classes, or number the labels as it does"
        )
