"""How a segment's time depends on its widths: where to look, and what to say of the widths between.

Kernels work on whole vectors and blocks, so time rises in steps, and some runtimes take another kernel where a width is
no multiple of 4 or 8. A few neighbouring widths show both: `Comb` says that widths which are multiples of `multiple`
form one curve and all others another, and that within a curve time depends on the width rounded up to `block`. Along
such a curve it is close to straight, and is halved wherever it bends. Curves of several letters make a grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from sartor.measure.tables.segments import Point

WINDOW = 17  # neighbouring widths that show the comb
MULTIPLES = (1, 2, 4, 8, 16)
BLOCKS = (1, 2, 4, 8, 16)
CALM = 0.03  # scatter about the curves that is as good as none
BEND = 0.04  # a middle further than this from the straight line is a bend, and is halved again
MOST_ON_A_LINE = 8
MOST_ON_A_GRID = 80
LEAST = 0.08  # narrowest width looked at, as a share of the whole

Wanted = Generator[list[Point], Mapping[Point, float], "Stairs | None"]


@dataclass(frozen=True)
class Comb:
    """Which widths of one letter lie on one curve."""

    multiple: int = 1
    block: int = 1

    def aligned(self, n: int) -> bool:
        """On the curve of the multiples."""
        return n % self.multiple == 0

    def at(self, n: int) -> int:
        """Where on its curve."""
        return -(-n // self.block) * self.block

    def sample(self, x: int, *, aligned: bool) -> int:
        """A width near x on one curve, at the end of its block."""
        step = math.lcm(self.multiple, self.block) if aligned else self.block
        n = max(step, round(x / step) * step)
        if aligned or self.multiple == 1:
            return n
        return n if n % self.multiple else n - 1


@dataclass(frozen=True)
class Stairs:
    """Grids of one kind: for every choice of curves, the sampled widths of every letter.

    `axes[i][c]` are the widths of letter i on curve c (True: multiples).
    """

    combs: tuple[Comb, ...]
    axes: tuple[Mapping[bool, tuple[int, ...]], ...]
    upto: Point  # whole widths it was made for
    _cache: dict[tuple[bool, ...], tuple[list[np.ndarray], np.ndarray]] = field(default_factory=dict, compare=False)

    def points(self) -> list[Point]:
        """Every point of every grid."""
        found: dict[Point, None] = {}
        for curves in itertools.product(*(sorted(a, reverse=True) for a in self.axes)):
            for p in itertools.product(*(a[c] for a, c in zip(self.axes, curves))):
                found[p] = None
        return list(found)

    def nearest(self, point: Point) -> Point:
        """The grid point on the same curves that lies closest."""
        return tuple(
            min(a[c], key=lambda v, n=n: (abs(v - n), v))  # type: ignore[misc]
            for a, c, n in zip(self.axes, self._curves(point), point)
        )

    def value(self, point: Point, seconds: Mapping[Point, float]) -> float:
        """Seconds at any point: multilinear on the grid of its curves, carried on beyond its ends."""
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
        wished = ((comb.aligned(n), a) for comb, a, n in zip(self.combs, self.axes, point))
        return tuple(
            curve if curve in a else not curve for curve, a in wished
        )  # a short letter may have one curve only

    def plain(self) -> dict[str, object]:
        """As JSON."""
        return {
            "combs": [[c.multiple, c.block] for c in self.combs],
            "axes": [{str(int(k)): list(v) for k, v in a.items()} for a in self.axes],
            "upto": list(self.upto),
        }

    @classmethod
    def read(cls, raw: Mapping[str, object]) -> Stairs:
        """The inverse of `plain`."""
        axes = tuple({k == "1": tuple(v) for k, v in a.items()} for a in raw["axes"])  # type: ignore[attr-defined]
        combs = tuple(Comb(*c) for c in raw["combs"])  # type: ignore[attr-defined]
        return cls(combs, axes, tuple(raw["upto"]))  # type: ignore[arg-type]


def suspects(stairs: Stairs, seconds: Mapping[Point, float], tolerance: float = 0.12) -> list[Point]:
    """Points slower than one that is at least as wide in every letter on the same curves: disturbed, most likely."""
    found = []
    by_curve: dict[tuple[bool, ...], list[Point]] = {}
    for p in stairs.points():
        by_curve.setdefault(stairs._curves(p), []).append(p)
    for points in by_curve.values():
        for p in points:
            wider = [seconds[q] for q in points if q != p and all(a >= b for a, b in zip(q, p))]
            if wider and seconds[p] > (1 + tolerance) * min(wider):
                found.append(p)
    return found


def explore(upto: Point) -> Wanted:
    """Points to time, a round at a time; is sent their seconds, and returns the stairs (None: nothing runs).

    Args:
        upto: the whole width of every letter.
    """
    if not upto:
        yield [()]
        return Stairs((), (), ())
    combs = []
    known: dict[Point, float] = {}
    windows = [_window(upto, i) for i in range(len(upto))]
    got = yield list(dict.fromkeys(p for w in windows for p in w))
    known.update(got)
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
        asked = [p for line in lines for p in line.wanted(known)]
        if not asked:
            break
        got = yield list(dict.fromkeys(asked))
        if not got:
            return None
        known.update(got)
        for line in lines:
            line.halve(known)
    axes: list[dict[bool, tuple[int, ...]]] = [{} for _ in upto]
    for line in lines:
        axes[line.letter][line.aligned] = tuple(line.widths(known))
    _thin(axes, lines, known)
    stairs = Stairs(tuple(combs), tuple(axes), upto)
    missing = [p for p in stairs.points() if p not in known]
    if missing:
        yield missing
    return stairs


def _window(upto: Point, letter: int) -> list[Point]:
    """Neighbouring widths of one letter at three quarters of it, the others a little over half and round."""
    n = upto[letter]
    high = min(n, max(WINDOW, round(0.75 * n) + WINDOW // 2))
    base = [_round(0.6 * v) if v > 8 else v for v in upto]
    return [(*base[:letter], k, *base[letter + 1 :]) for k in range(max(1, high - WINDOW + 1), high + 1)]


def _round(x: float) -> int:
    step = 32 if x >= 96 else 16 if x >= 24 else 8
    return max(step, round(x / step) * step) if x >= 8 else max(1, round(x))


def comb_of(widths: Sequence[int], seconds: Sequence[float]) -> Comb:
    """The simplest comb whose curves the times lie on.

    >>> comb_of(range(40, 57), [2.0 if n % 4 else 1.0 for n in range(40, 57)])
    Comb(multiple=4, block=1)
    >>> comb_of(range(40, 57), [float(-(-n // 8)) for n in range(40, 57)])
    Comb(multiple=1, block=8)
    """
    if len(widths) < 6:
        return Comb()
    combs = [Comb(m, b) for m in MULTIPLES for b in BLOCKS if m <= widths[-1]]
    tried = {c: _scatter(c, widths, seconds) for c in combs}
    bound = max(CALM, 1.25 * min(tried.values()))
    for extra in (0, 1, 2):
        fine = [c for c, s in tried.items() if (c.multiple > 1) + (c.block > 1) == extra and s <= bound]
        if fine:
            return min(fine, key=lambda c: (round(tried[c], 3), c.multiple * c.block))
    return Comb()


def _scatter(comb: Comb, widths: Sequence[int], seconds: Sequence[float]) -> float:
    """Mean distance of the times from a straight line on each curve, as a share of them."""
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
    """One letter along one curve, the others whole; halved where it bends."""

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

    def wanted(self, known: Mapping[Point, float]) -> list[Point]:
        """Ends, and the middles of what is still open."""
        middles = [self._near((a + b) / 2) for a, b in self.open]
        return [p for n in (*self.chosen, *middles) if (p := self._point(n)) not in known]

    def halve(self, known: Mapping[Point, float]) -> None:
        """Take in the middles that a straight line misses, and open both halves."""
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
        """What was chosen and could be timed."""
        return sorted(n for n in set(self.chosen) if self._point(n) in known)


def _thin(axes: list[dict[bool, tuple[int, ...]]], lines: Sequence[_Line], known: Mapping[Point, float]) -> None:
    """Leave widths out, the straightest places first, until the grids together are small enough."""

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
