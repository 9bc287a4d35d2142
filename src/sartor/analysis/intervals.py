"""95 % confidence intervals of shares and means."""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import stdtrit

_Z = 1.959963984540054  # 97.5 % quantile of the standard normal


def share_interval(hits: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share, in [0, 1].

    Source: Wilson 1927, doi:10.1080/01621459.1927.10502953.

    >>> [round(x, 3) for x in share_interval(0, 10)]
    [0.0, 0.278]
    """
    if n < 1:
        return 0.0, 1.0
    p, z2 = hits / n, _Z**2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's interval of the mean of independent values; None: fewer than two, or one is not finite.

    >>> [round(x, 2) for x in mean_interval([1.0, 2.0, 3.0])]
    [-0.48, 4.48]
    """
    n = len(values)
    if n < 2 or not all(map(math.isfinite, values)):
        return None
    mean = math.fsum(values) / n
    error = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (n - 1) / n)
    half = float(stdtrit(n - 1, 0.975)) * error
    return mean - half, mean + half
