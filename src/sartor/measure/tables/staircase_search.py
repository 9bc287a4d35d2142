"""Which widths of a segment to time, so that its staircase is known from few timings.

A window of neighbouring widths shows the `Comb` of every letter. Along a curve time is close to linear; intervals are
halved wherever it bends. The widths of several letters make a grid, which is thinned until it is small enough.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Mapping, Sequence

import numpy as np

from sartor.measure.tables.segments import Point
from sartor.measure.tables.staircase import Comb, Staircase

WINDOW = 17  # neighbouring widths that show the comb
MULTIPLES = (1, 2, 4, 8, 16)
BLOCKS = (1, 2, 4, 8, 16)
CALM = 0.03  # relative scatter about the curves that counts as none
BEND = 0.04  # an interval is halved if its middle is off the straight line by more than this share
MOST_ON_A_LINE = 8  # widths
MOST_ON_A_GRID = 80  # points
LEAST = 0.08  # narrowest width that is timed, as a share of the whole

Search = Generator[list[Point], Mapping[Point, float], "Staircase | None"]


def staircase_search(upto: Point) -> Search:
    """A generator that yields the points to time, round by round, and is sent their seconds.

    It returns the staircase, or None if the segment does not run at any of the points.

    Args:
        upto: the whole width of every letter.
    """
    if not upto:
        yield [()]
        return Staircase((), (), ())
    combs = []
    known: dict[Point, float] = {}
    windows = [_window(upto, i) for i in range(len(upto))]
    times = yield list(dict.fromkeys(p for w in windows for p in w))
    known.update(times)
    for i, w in enumerate(windows):
        xs = [p[i] for p in w if p in known]
        combs.append(comb_of(xs, [known[p] for p in w if p in known]) if len(upto) <= 3 else Comb())
    if not known:
        return None
    lines = [
        _Line(i, upto, comb, aligned)
        for i, comb in enumerate(combs)
        for aligned in ((True, False) if comb.multiple > 1 else (True,))
    ]
    while True:
        points = [p for line in lines for p in line.missing(known)]
        if not points:
            break
        times = yield list(dict.fromkeys(points))
        if not times:
            return None
        known.update(times)
        for line in lines:
            line.halve(known)
    axes: list[dict[bool, tuple[int, ...]]] = [{} for _ in upto]
    for line in lines:
        axes[line.letter][line.aligned] = tuple(line.widths(known))
    _thin(axes, lines, known)
    staircase = Staircase(tuple(combs), tuple(axes), upto)
    missing = [p for p in staircase.points() if p not in known]
    if missing:
        yield missing
    return staircase


def _window(upto: Point, letter: int) -> list[Point]:
    """Neighbouring widths of one letter at 3/4 of it; the other letters at 0.6 of theirs, rounded."""
    n = upto[letter]
    high = min(n, max(WINDOW, round(0.75 * n) + WINDOW // 2))
    base = [_round(0.6 * v) if v > 8 else v for v in upto]
    return [(*base[:letter], k, *base[letter + 1 :]) for k in range(max(1, high - WINDOW + 1), high + 1)]


def _round(x: float) -> int:
    step = 32 if x >= 96 else 16 if x >= 24 else 8
    return max(step, round(x / step) * step) if x >= 8 else max(1, round(x))


def comb_of(widths: Sequence[int], seconds: Sequence[float]) -> Comb:
    """The simplest comb whose curves explain the times.

    >>> comb_of(range(40, 57), [2.0 if n % 4 else 1.0 for n in range(40, 57)])
    Comb(multiple=4, block=1)
    >>> comb_of(range(40, 57), [float(-(-n // 8)) for n in range(40, 57)])
    Comb(multiple=1, block=8)
    """
    if len(widths) < 6:
        return Comb()
    combs = [Comb(m, b) for m in MULTIPLES for b in BLOCKS if m <= widths[-1]]
    scatter = {c: _scatter(c, widths, seconds) for c in combs}
    bound = max(CALM, 1.25 * min(scatter.values()))
    for extra in (0, 1, 2):
        fine = [c for c, s in scatter.items() if (c.multiple > 1) + (c.block > 1) == extra and s <= bound]
        if fine:
            return min(fine, key=lambda c: (round(scatter[c], 3), c.multiple * c.block))
    return Comb()


def _scatter(comb: Comb, widths: Sequence[int], seconds: Sequence[float]) -> float:
    """Mean relative distance of the times from a straight line on each curve."""
    off = []
    for curve in (True, False):
        rows = [(comb.at(n), s) for n, s in zip(widths, seconds) if comb.aligned(n) is curve]
        if not rows:
            continue
        x, y = np.array(rows, dtype=float).T
        if len(set(x)) > 1:
            slope, start = np.polyfit(x, y, 1)
            fitted = start + max(slope, 0.0) * x if slope > 0 else np.full_like(y, y.mean())
        else:
            fitted = np.full_like(y, y.mean())
        off += list(np.abs(y - fitted) / y)
    return float(np.mean(off))


class _Line:
    """The widths of one letter on one curve, with the other letters whole; intervals are halved where time bends."""

    def __init__(self, letter: int, upto: Point, comb: Comb, aligned: bool):
        self.letter, self.upto, self.comb, self.aligned = letter, upto, comb, aligned
        n = upto[letter]
        self.least_step = max(math.lcm(comb.multiple, comb.block), n // 32, 1)
        least = max(1, math.ceil(LEAST * n))
        ends = sorted(
            {self._near(least), self._near((least + n) / 2), n if comb.aligned(n) is aligned else self._near(n)}
        )
        if n <= 4:
            ends = list(range(1, n + 1))
        self.chosen: list[int] = ends
        self.open = list(itertools.pairwise(ends)) if n > 4 else []

    def _near(self, x: float) -> int:
        return max(1, min(self.comb.sample(round(x), aligned=self.aligned), self.upto[self.letter]))

    def _point(self, n: int) -> Point:
        return (*self.upto[: self.letter], n, *self.upto[self.letter + 1 :])

    def missing(self, known: Mapping[Point, float]) -> list[Point]:
        """Points not timed yet: the chosen widths, and the middles of open intervals."""
        middles = [self._near((a + b) / 2) for a, b in self.open]
        return [p for n in (*self.chosen, *middles) if (p := self._point(n)) not in known]

    def halve(self, known: Mapping[Point, float]) -> None:
        """Choose the middles that a straight line misses, and open both of their halves."""
        still = []
        for a, b in self.open:
            m = self._near((a + b) / 2)
            rows = [known.get(self._point(n)) for n in (a, m, b)]
            if m in (a, b) or None in rows or m in self.chosen:
                continue
            ya, ym, yb = rows  # type: ignore[misc]
            straight = ya + (yb - ya) * (m - a) / (b - a)  # type: ignore[operator]
            if abs(ym - straight) > BEND * ym and len(self.chosen) < MOST_ON_A_LINE:  # type: ignore[operator]
                self.chosen.append(m)
                still += [p for p in ((a, m), (m, b)) if p[1] - p[0] > self.least_step]
        self.open = still

    def widths(self, known: Mapping[Point, float]) -> list[int]:
        """The chosen widths that could be timed."""
        return sorted(n for n in set(self.chosen) if self._point(n) in known)


def _thin(axes: list[dict[bool, tuple[int, ...]]], lines: Sequence[_Line], known: Mapping[Point, float]) -> None:
    """Remove widths, those on the straightest places first, until the grids together are small enough."""

    def size() -> int:
        return math.prod(sum(map(len, a.values())) for a in axes)

    if len(axes) == 1:
        return
    while size() > MOST_ON_A_GRID:
        best: tuple[float, int, bool, int] | None = None
        for line in lines:
            widths = axes[line.letter][line.aligned]
            for a, m, b in zip(widths, widths[1:], widths[2:]):
                ya, ym, yb = (known[line._point(n)] for n in (a, m, b))
                bend = abs(ym - ya - (yb - ya) * (m - a) / (b - a)) / ym
                if best is None or bend < best[0]:
                    best = (bend, line.letter, line.aligned, m)
        if best is None:
            break
        _, letter, aligned, m = best
        axes[letter][aligned] = tuple(n for n in axes[letter][aligned] if n != m)
