"""The time of a segment as a function of its widths: a staircase, interpolated between timed widths.

Kernels work on whole vectors and blocks, so time rises in steps, and some runtimes choose another kernel for a width
that is not a multiple of 4 or 8. `Comb` describes both: widths that are multiples of `multiple` form one curve and all
others another, and on a curve time depends on the width rounded up to `block`. Curves of several letters make a grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from sartor.measure.tables.segments import Point


@dataclass(frozen=True)
class Comb:
    """Which widths of one letter lie on the same curve."""

    multiple: int = 1
    block: int = 1

    def aligned(self, n: int) -> bool:
        """Whether a width lies on the curve of the multiples."""
        return n % self.multiple == 0

    def at(self, n: int) -> int:
        """The position of a width on its curve: rounded up to the block."""
        return -(-n // self.block) * self.block

    def sample(self, x: int, *, aligned: bool) -> int:
        """The width near x that lies on the given curve, at the end of a block."""
        step = math.lcm(self.multiple, self.block) if aligned else self.block
        n = max(step, round(x / step) * step)
        if aligned or self.multiple == 1:
            return n
        return n if n % self.multiple else n - 1


@dataclass(frozen=True)
class Staircase:
    """The timed grids of one kind: for every choice of curves, the timed widths of every letter.

    `axes[i][c]` are the widths of letter i on curve c (True: the multiples).
    """

    combs: tuple[Comb, ...]
    axes: tuple[Mapping[bool, tuple[int, ...]], ...]
    upto: Point  # the whole widths that it reaches up to
    _cache: dict[tuple[bool, ...], tuple[list[np.ndarray], np.ndarray]] = field(default_factory=dict, compare=False)

    def points(self) -> list[Point]:
        """Every point of every grid."""
        points: dict[Point, None] = {}
        for curves in itertools.product(*(sorted(a, reverse=True) for a in self.axes)):
            for p in itertools.product(*(a[c] for a, c in zip(self.axes, curves))):
                points[p] = None
        return list(points)

    def nearest(self, point: Point) -> Point:
        """The grid point on the same curves that lies closest."""
        return tuple(
            min(a[c], key=lambda v, n=n: (abs(v - n), v))  # type: ignore[misc]
            for a, c, n in zip(self.axes, self._curves(point), point)
        )

    def value(self, point: Point, seconds: Mapping[Point, float]) -> float:
        """Seconds at any point: multilinear on the grid of its curves, extrapolated beyond the ends."""
        curves = self._curves(point)
        if curves not in self._cache:
            chosen = [a[c] for a, c in zip(self.axes, curves)]
            grid = np.array([seconds[p] for p in itertools.product(*chosen)]).reshape([len(c) for c in chosen])
            at = [np.array([comb.at(n) for n in c], dtype=float) for comb, c in zip(self.combs, chosen)]
            self._cache[curves] = at, grid
        at, grid = self._cache[curves]
        low = float(grid.min()) / 2
        for letter, (comb, n) in enumerate(zip(self.combs, point)):
            xs, x = at[letter], comb.at(n)
            if len(xs) == 1:
                grid = grid[0]
                continue
            i = min(max(int(np.searchsorted(xs, x)), 1), len(xs) - 1)
            share = (x - xs[i - 1]) / (xs[i] - xs[i - 1])
            grid = grid[i - 1] * (1 - share) + grid[i] * share
        return max(float(grid), low)

    def _curves(self, point: Point) -> tuple[bool, ...]:
        preferred = ((comb.aligned(n), a) for comb, a, n in zip(self.combs, self.axes, point))
        return tuple(
            curve if curve in a else not curve for curve, a in preferred
        )  # a letter with few widths may have a single curve

    def plain(self) -> dict[str, object]:
        """As values that JSON knows."""
        return {
            "combs": [[c.multiple, c.block] for c in self.combs],
            "axes": [{str(int(k)): list(v) for k, v in a.items()} for a in self.axes],
            "upto": list(self.upto),
        }

    @classmethod
    def read(cls, raw: Mapping[str, object]) -> Staircase:
        """The inverse of `plain`."""
        axes = tuple({k == "1": tuple(v) for k, v in a.items()} for a in raw["axes"])  # type: ignore[attr-defined]
        combs = tuple(Comb(*c) for c in raw["combs"])  # type: ignore[attr-defined]
        return cls(combs, axes, tuple(raw["upto"]))  # type: ignore[arg-type]


def disturbed_points(staircase: Staircase, seconds: Mapping[Point, float], tolerance: float = 0.12) -> list[Point]:
    """Points slower than a point that is at least as wide in every letter, on the same curves.

    More work does not take less time, so the timing of such a point was most likely disturbed.
    """
    slower = []
    by_curve: dict[tuple[bool, ...], list[Point]] = {}
    for p in staircase.points():
        by_curve.setdefault(staircase._curves(p), []).append(p)
    for points in by_curve.values():
        for p in points:
            wider = [seconds[q] for q in points if q != p and all(a >= b for a, b in zip(q, p))]
            if wider and seconds[p] > (1 + tolerance) * min(wider):
                slower.append(p)
    return slower
