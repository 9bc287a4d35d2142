"""Curves from dense to sparse: which share of the way is done at which share of the run.

A curve maps progress in [0, 1] to a share in [0, 1], never decreases, and is exactly 1 at the end. The sparsity at any
time is `between(first, last, curve(within(progress, start, end)))`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from sartor.errors import BadInput

Curve = Callable[[float], float]


def linear(progress: float) -> float:
    """A straight line from 0 to 1.

    >>> linear(0.25)
    0.25
    """
    return _share(progress)


def cubic(progress: float) -> float:
    """Fast at the beginning, slow at the end: 1 - (1 - t)^3.

    Source: Zhu and Gupta 2017 (automated gradual pruning), arXiv:1710.01878, eq. 1.

    >>> cubic(0.5)
    0.875
    """
    return 1 - (1 - _share(progress)) ** 3


def one_cycle(progress: float, *, alpha: float = 14.0, beta: float = 5.0) -> float:
    """A sigmoid over the whole run, scaled to be exactly 1 at the end: (1 + e^(b - a)) / (1 + e^(b - a t)).

    It does not start at 0: with the defaults, 0.67 % of the way is done at once.

    Args:
        progress: share of the run that is done, in [0, 1].
        alpha: steepness, positive.
        beta: alpha times the time at which about half of the way is done.

    Raises:
        BadInput: progress is outside [0, 1], or alpha is not positive.

    Source: Hubens et al. 2022 (One-Cycle Pruning), arXiv:2107.02086, eq. 2.

    >>> one_cycle(1.0), round(one_cycle(0.0), 4), round(one_cycle(5 / 14), 3)
    (1.0, 0.0067, 0.5)
    """
    if not (alpha > 0 and math.isfinite(alpha) and math.isfinite(beta)):
        raise BadInput(f"one-cycle curve: expected a positive alpha and a finite beta; got {alpha} and {beta}")
    return (1 + math.exp(beta - alpha)) / (1 + math.exp(beta - alpha * _share(progress)))


def steps(progress: float, *, count: int = 3) -> float:
    """Equal steps: the first one directly after the start, the last one at (count - 1) / count.

    Raises:
        BadInput: progress is outside [0, 1], or there are no steps.

    >>> [round(steps(t), 3) for t in (0.0, 0.1, 0.5, 0.9, 1.0)]
    [0.0, 0.333, 0.667, 1.0, 1.0]
    """
    if count < 1:
        raise BadInput(f"curve of steps: expected at least one step; got {count}")
    return min(math.ceil(_share(progress) * count) / count, 1.0)


def one_shot(progress: float, *, at: float = 0.0) -> float:
    """Everything at one time: 0 before `at`, 1 from `at` on.

    Raises:
        BadInput: progress or `at` is outside [0, 1].

    >>> one_shot(0.49, at=0.5), one_shot(0.5, at=0.5)
    (0.0, 1.0)
    """
    return float(_share(progress) >= _share(at))


CURVES: Mapping[str, Curve] = MappingProxyType(
    {"linear": linear, "cubic": cubic, "one-cycle": one_cycle, "steps": steps, "one-shot": one_shot}
)  # by the names that recipes use


def within(progress: float, start: float, end: float) -> float:
    """Progress inside the part of the run from `start` to `end`: 0 before it, 1 after it.

    Raises:
        BadInput: a share is outside [0, 1], or the part ends before it starts.

    >>> within(0.1, 0.25, 0.75), within(0.5, 0.25, 0.75), within(0.9, 0.25, 0.75)
    (0.0, 0.5, 1.0)
    """
    if not 0 <= start <= end <= 1:
        raise BadInput(f"schedule: expected 0 <= start <= end <= 1; got start {start} and end {end}")
    if _share(progress) >= end:
        return 1.0
    return (progress - start) / (end - start) if progress > start else 0.0


def between(first: float, last: float, share: float) -> float:
    """The value at this share of the way from `first` to `last`: exactly `first` at 0 and `last` at 1.

    >>> between(0.1, 0.7, 1.0), between(1.0, 0.5, 0.5)
    (0.7, 0.75)
    """
    if share >= 1:
        return last
    return first + (last - first) * share if share > 0 else first


def _share(progress: float) -> float:
    if not 0 <= progress <= 1:
        raise BadInput(f"schedule: expected progress in [0, 1]; got {progress}")
    return progress
