"""How much is regrown, or how sparse a stage is, at which share of the run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from sartor.errors import BadInput
from sartor.schedule.cosine import cosine


def cosine_regrow(progress: float, *, first: float, until: float) -> float:
    """The share that is exchanged: `first` at the beginning, half a cosine down to 0 at `until`, then 0.

    Args:
        progress: share of the run that is done, in [0, 1].
        first: share at the beginning, at least 0.
        until: share of the run after which nothing is exchanged, in [0, 1].

    Returns:
        first * (1 + cos(pi * progress / until)) / 2 before `until`, exactly 0 from there on.

    Raises:
        BadInput: an argument is out of range.

    Source: Evci et al. 2020 (RigL), arXiv:1911.11134, section 3; the same curve in CHEX, Hou et al. 2022,
    arXiv:2203.15794.

    >>> cosine_regrow(0.0, first=0.3, until=0.75), cosine_regrow(0.75, first=0.3, until=0.75)
    (0.3, 0.0)
    """
    if not (0 <= progress <= 1 and 0 <= until <= 1 and first >= 0):
        raise BadInput(
            f"schedule: expected progress and until in [0, 1] and first >= 0; got {progress}, {until} and {first}"
        )
    return first * cosine(progress / until) if progress < until else 0.0


def stage_value(progress: float, *, boundaries: Sequence[float], values: Sequence[float]) -> float:
    """The value of the stage that this time belongs to; a stage begins at its boundary.

    Args:
        progress: share of the run that is done, in [0, 1].
        boundaries: shares at which the second and later stages begin, increasing, inside [0, 1].
        values: of the stages, one more than boundaries.

    Raises:
        BadInput: progress is outside [0, 1], boundaries do not increase, or counts do not fit.

    Source: the stage lists of MEST, Yuan et al. 2021, arXiv:2110.14032.

    >>> [stage_value(t, boundaries=(0.5, 0.75), values=(0.85, 0.875, 0.9)) for t in (0.0, 0.5, 1.0)]
    [0.85, 0.875, 0.9]
    """
    if len(values) != len(boundaries) + 1:
        raise BadInput(
            f"stages: expected one more value than boundaries; got {len(values)} values, {len(boundaries)} boundaries"
        )
    if any(b <= a for a, b in itertools.pairwise(boundaries)) or not all(0 <= b <= 1 for b in boundaries):
        raise BadInput(f"stages: expected increasing boundaries in [0, 1]; got {tuple(boundaries)}")
    if not 0 <= progress <= 1:
        raise BadInput(f"schedule: expected progress in [0, 1]; got {progress}")
    return values[sum(progress >= b for b in boundaries)]
