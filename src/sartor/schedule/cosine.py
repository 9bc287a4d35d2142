"""The cosine schedule with linear warm-up."""

from __future__ import annotations

import math

from sartor.errors import BadInput


def cosine(progress: float) -> float:
    """Half a period of the cosine, from 1 at the beginning to 0 at the end.

    Args:
        progress: share of the work that is done, in [0, 1].

    Returns:
        A factor in [0, 1], which decreases with progress.

    Raises:
        BadInput: progress is outside [0, 1].

    Source: Loshchilov and Hutter 2017, arXiv:1608.03983, without restarts.

    >>> cosine(0.0), round(cosine(0.5), 6), cosine(1.0)
    (1.0, 0.5, 0.0)
    """
    if not 0 <= progress <= 1:
        raise BadInput(f"schedule: expected progress in [0, 1]; got {progress}")
    return 0.5 * (1 + math.cos(math.pi * progress))


def cosine_with_warmup(progress: float, *, warmup: float) -> float:
    """A straight line from 0 to 1 over the first `warmup` of the work, then `cosine` over the rest.

    Args:
        progress: share of the work that is done, in [0, 1].
        warmup: share of the work for the warm-up, in [0, 1].

    Returns:
        A factor in [0, 1], continuous in progress, 1 exactly at `progress == warmup`.

    Raises:
        BadInput: progress or warmup is outside [0, 1].

    Source: warm-up from Goyal et al. 2017, arXiv:1706.02677, which starts at a fraction of the rate, not at 0.

    >>> [round(cosine_with_warmup(p, warmup=0.2), 3) for p in (0.0, 0.1, 0.2, 0.6, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not (0 <= progress <= 1 and 0 <= warmup <= 1):
        raise BadInput(f"schedule: expected progress and warm-up in [0, 1]; got {progress} and {warmup}")
    if progress < warmup:
        return progress / warmup
    return cosine((progress - warmup) / (1 - warmup)) if warmup < 1 else 1.0
