"""Widths chosen one by one on the costs as they are: a multiple-choice knapsack.

Every group, or class of tied groups, takes one width from its menu. What is lost is the sum over groups of the scores
given up, each group's divided by the share of it that is kept; every limit is a sum of parts that depend on one or two
of the widths, which makes a mixed-integer linear program: a binary for every choice, and for every part of two groups
the pairs of their choices. Parts of more groups, and costs that do not say their parts, are taken as straight around
the best widths so far, and the program is solved again until nothing moves.

Source: latency constraints as a knapsack, Shen et al. 2022, "HALP", arXiv:2110.10811; there each layer's cost depends
on its own width only, and a unit is worth its score whatever else stays of its layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from sartor.allocate.bundles import Bundle, bundles, kept, ladder, tied_classes
from sartor.allocate.exact import feasible, fit, put_back
from sartor.allocate.registry import ALLOCATORS, Cap, Keep
from sartor.measure.silence_output import silent_stdout
from sartor.types import Counts, Scores

_MENU = 14  # widths a class may choose from
_LOOK = 64  # widths looked at for it
_PAIRS = 30_000  # choices of two groups at most; beyond, couplings are linearised
_ROUNDS = 6
_SECONDS = 2.0  # of one program
_GAP = 5e-3  # of the least loss: how much more is as good
_LEAST_SHARE = 1e-3  # of a group's score, where its loss stops growing
_SAME = 0.01  # a wider width that costs at most this much more stands for the narrower


@dataclass
class _Class:
    groups: tuple[str, ...]
    menu: list[int]  # from narrow to whole
    value: list[float]  # minus the loss at each, see `_worth`


@dataclass
class _Program:
    """Rows of the linear program, variable by variable."""

    objective: list[float] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)  # 1: a binary
    rows: list[tuple[list[int], list[float], float, float]] = field(default_factory=list)

    def variable(self, value: float, *, binary: bool) -> int:
        self.objective.append(-value)
        self.whole.append(int(binary))
        return len(self.objective) - 1

    def row(self, where: Sequence[int], factors: Sequence[float], low: float, high: float) -> None:
        self.rows.append((list(where), list(factors), low, high))

    def solved(self) -> np.ndarray | None:
        data, columns, starts = [], [], [0]
        for where, factors, _, _ in self.rows:
            columns += where
            data += factors
            starts.append(len(columns))
        matrix = csr_matrix((data, columns, starts), shape=(len(self.rows), len(self.objective)))
        low, high = (np.array([r[k] for r in self.rows]) for k in (2, 3))
        with silent_stdout():  # the solver tells of its own bugs
            found = milp(
                np.array(self.objective), constraints=LinearConstraint(matrix, low, high), bounds=Bounds(0, 1),
                integrality=np.array(self.whole), options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
            )  # fmt: skip
        x: np.ndarray | None = found.x
        return x


@ALLOCATORS.register("knapsack", source="Shen et al. 2022, arXiv:2110.10811 (multiple-choice knapsack)")
def knapsack(
    scores: Scores,
    limits: Sequence[Cap | tuple[Callable[[Counts], float], float]],
    units: Mapping[str, int],
    *,
    ties: Sequence[Sequence[str]] = (),
    floor: float = 0.1,
    round_to: int = 1,
) -> Keep:
    """Widths that lose the least, each chosen on the costs as they are (staircases of latency, say).

    Scores should not be divided by cost: the limits say what everything costs. See `Allocator` for arguments, result
    and errors; under a cost with stairs, units are put back from width to width of the menu.
    """
    caps = [Cap(*x) for x in limits]
    steps = bundles(scores, units, ties, floor, round_to)
    fits = feasible(caps, steps, scores)  # raises where there is nothing to do, or nothing to be done
    classes = _classes(scores, caps, units, ties, floor, round_to)
    stairs = any(getattr(c.cost, "stairs", False) for c in caps)
    order = _menu_steps(classes) if stairs else sorted(steps, key=lambda b: (b.score, b.depth))
    best = _searched(classes, caps, units, fits)
    if best is None:  # the straight lines never led to a plan that really fits
        return fit(order, caps, scores)
    best = put_back(best, [b for b in order if all(best[g] < b.before for g in b.groups)], fits)
    return kept(scores, {g: k for g, k in best.items() if k < units[g]})


def _classes(
    scores: Scores,
    caps: Sequence[Cap],
    units: Mapping[str, int],
    ties: Sequence[Sequence[str]],
    floor: float,
    round_to: int,
) -> list[_Class]:
    found = []
    scale = max((float(scores[g].double().abs().sum()) for g in units), default=1.0) or 1.0
    for together in tied_classes(units, ties):
        n = units[together[0]]
        widths = ladder(n, floor, round_to)
        looked = _coarse(widths, n)
        menu = _menu(looked, lambda k, t=together: [_share(c, t, k, units) for c in caps])  # type: ignore[misc]
        total: Any = sum(scores[g].double().sort(descending=True).values for g in together)
        worth = _worth(total.numpy() / scale)
        found.append(_Class(together, menu, [float(worth[k - 1]) for k in menu]))
    return found


def _worth(scores: np.ndarray) -> np.ndarray:
    """Minus what is lost when the first 1, 2, ... units of a group stay: score given up / share of the score kept.

    Where little goes this is the sum of the scores that go; where little stays it grows without bound. A sum alone
    would rather empty a few dear groups than thin out many, and a chain is no wider than its narrowest link.

    Args:
        scores: [units], falling. Scores below 0 are counted from the lowest.

    Returns:
        [units], rising to 0, in steps that never grow.

    >>> _worth(np.array([2.0, 1.0, 1.0]))
    array([-4.        , -1.33333333,  0.        ])
    """
    counted = scores - min(0.0, float(scores[-1]))
    kept = counted.cumsum()
    whole = float(kept[-1]) or 1.0
    worth: np.ndarray = (kept - kept[-1]) / np.maximum(kept / whole, _LEAST_SHARE)
    return worth


def _coarse(widths: Sequence[int], n: int) -> list[int]:
    """At most _LOOK widths or so: the ends, and the multiples of a power of two, where kernels have their steps."""
    step = 1
    while n // step > _LOOK:
        step *= 2
    return sorted({k for k in widths if k % step == 0} | {widths[0], widths[-1]})


def _share(cap: Cap, together: Sequence[str], k: int, units: Mapping[str, int]) -> float:
    """What of a limit the parts of one class take at a width, all else whole."""
    parts = getattr(cap.cost, "parts", None)
    if parts is None:
        return float(k)  # it grows with the width; more is not known
    mine = [p for p in parts if any(g in together for g in p.groups)]
    whole = {**getattr(cap.cost, "whole", {}), **units}
    cost: float = sum(p.cost(*(k if g in together else whole[g] for g in p.groups)) for p in mine)
    return cost / max(cap.at_most, 1e-30)


def _menu(widths: Sequence[int], costs: Callable[[int], list[float]]) -> list[int]:
    """Widths worth choosing: none that a wider one undercuts, spread evenly from narrow to whole."""
    rows = [(k, costs(k)) for k in widths]
    useful: list[int] = []
    least: list[float] | None = None
    for k, row in reversed(rows):  # from whole to narrow
        if least is None or k == rows[0][0] or any(c < b * (1 - _SAME) for c, b in zip(row, least)):
            useful.append(k)
            least = row if least is None else [min(a, b) for a, b in zip(row, least)]
    useful.reverse()
    if len(useful) > _MENU:
        marks = np.linspace(useful[0], useful[-1], _MENU)
        useful = sorted({min(useful, key=lambda k: abs(k - m)) for m in marks})
    return useful


def _menu_steps(classes: Sequence[_Class]) -> list[Bundle]:
    """From width to width of the menus, as something that can be put back; best score a unit of share last."""
    found = []
    for c in classes:
        for (low, a), (high, b) in itertools.pairwise(zip(c.menu, c.value)):
            each = (b - a) / (high - low)
            found.append(Bundle(c.groups, high, low, each, 1 - (low + high) / (2 * c.menu[-1])))
    return sorted(found, key=lambda b: (b.score, b.depth))


def _searched(
    classes: Sequence[_Class], caps: Sequence[Cap], units: Mapping[str, int], fits: Callable[[Counts], bool]
) -> dict[str, int] | None:
    """Solve, see what it really costs, solve again around it; the best that fits."""
    here = {g: c.menu[-1] for c in classes for g in c.groups}
    tight = [1.0] * len(caps)
    straight = {id(c): _Straight(c, classes) for c in caps if not hasattr(c.cost, "parts")}
    best: tuple[float, dict[str, int]] | None = None
    for _ in range(_ROUNDS):
        found = _solved(classes, caps, units, here, tight, straight)
        if found is None:
            here = best[1] if best else {g: c.menu[0] for c in classes for g in c.groups}
            tight = [(1 + t) / 2 for t in tight]
            continue
        counts = {g: k for c, k in zip(classes, found) for g in c.groups}
        value = sum(c.value[c.menu.index(k)] for c, k in zip(classes, found))
        if fits(counts) and (best is None or value > best[0]):
            best = value, counts
        real = [c.cost(counts) / max(c.at_most, 1e-30) for c in caps]
        settled = counts == here
        # what the lines promised was the limit; where it is not, the limit moves by as much
        tight = [t * min(1.0, 0.999 / r) if r > 1 else t for t, r in zip(tight, real)]
        here = counts
        if settled and all(r <= 1 for r in real):
            break
    return best[1] if best else None


def _solved(
    classes: Sequence[_Class],
    caps: Sequence[Cap],
    units: Mapping[str, int],
    here: Counts,
    tight: Sequence[float],
    straight: Mapping[int, _Straight],
) -> list[int] | None:
    program = _Program()
    of = {g: i for i, c in enumerate(classes) for g in c.groups}
    choice = [[program.variable(v, binary=True) for v in c.value] for c in classes]
    for row in choice:
        program.row(row, [1.0] * len(row), 1.0, 1.0)
    involved = {_involved(p.groups, of) for cap in caps for p in getattr(cap.cost, "parts", ())}
    couple = sum(len(classes[k[0]].menu) * len(classes[k[1]].menu) for k in involved if len(k) == 2) <= _PAIRS
    pairs: dict[tuple[int, int], list[list[int]]] = {}
    for cap, share in zip(caps, tight):
        at_most = max(cap.at_most, 1e-30)
        weight: dict[int, float] = {}
        constant = 0.0
        line = straight.get(id(cap))
        if line is not None:
            line.draw(here)
            constant += line.base / at_most
            for i, c in enumerate(classes):
                for k, v in zip(c.menu, choice[i]):
                    weight[v] = weight.get(v, 0.0) + line.at(i, k) / at_most
        for part in getattr(cap.cost, "parts", ()):
            whole = {**getattr(cap.cost, "whole", {}), **units}

            def cost(given: Counts, part: Any = part, whole: Counts = whole, at_most: float = at_most) -> float:
                return float(part.cost(*(given.get(g, whole[g]) for g in part.groups))) / at_most

            inside = _involved(part.groups, of)
            if not inside:
                constant += cost({})
            elif len(inside) == 1:
                for k, v in zip(classes[inside[0]].menu, choice[inside[0]]):
                    weight[v] = weight.get(v, 0.0) + cost(dict.fromkeys(classes[inside[0]].groups, k))
            elif len(inside) == 2 and couple:
                a, b = (classes[i] for i in inside)
                grid = pairs.setdefault(inside, []) or _paired(program, choice, inside, pairs)
                for i, k in enumerate(a.menu):
                    for j, m in enumerate(b.menu):
                        both = {**dict.fromkeys(a.groups, k), **dict.fromkeys(b.groups, m)}
                        weight[grid[i][j]] = weight.get(grid[i][j], 0.0) + cost(both)
            else:
                now = {g: here[g] for i in inside for g in classes[i].groups}
                base = cost(now)
                constant += base
                for i in inside:
                    for k, v in zip(classes[i].menu, choice[i]):
                        moved = cost({**now, **dict.fromkeys(classes[i].groups, k)})
                        weight[v] = weight.get(v, 0.0) + moved - base
        program.row(list(weight), list(weight.values()), -np.inf, share - constant)
    x = program.solved()
    if x is None:
        return None
    return [c.menu[int(np.argmax([x[v] for v in row]))] for c, row in zip(classes, choice)]


def _involved(groups: Sequence[str], of: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sorted({of[g] for g in groups if g in of}))


def _paired(
    program: _Program, choice: Sequence[Sequence[int]], inside: tuple[int, ...], pairs: dict[Any, list[list[int]]]
) -> list[list[int]]:
    """Variables of two classes' choices together: their sums are the choices."""
    a, b = (choice[i] for i in inside)
    grid = [[program.variable(0.0, binary=False) for _ in b] for _ in a]
    for i, v in enumerate(a):
        program.row([*grid[i], v], [*[1.0] * len(b), -1.0], 0.0, 0.0)
    for j, v in enumerate(b):
        program.row([*(row[j] for row in grid), v], [*[1.0] * len(a), -1.0], 0.0, 0.0)
    pairs[inside] = grid
    return grid


class _Straight:
    """A cost that does not say its parts: straight in every class around some widths, drawn anew at most twice."""

    def __init__(self, cap: Cap, classes: Sequence[_Class]):
        self.cap, self.classes, self.drawn = cap, classes, 0
        self.base, self.here, self.slopes = 0.0, {}, []  # type: float, dict[str, int], list[float]

    def draw(self, here: Counts) -> None:
        if self.drawn == 2:
            return
        self.drawn += 1
        self.here, self.base, self.slopes = dict(here), self.cap.cost(here), []
        for c in self.classes:
            now = here[c.groups[0]]
            other = c.menu[0] if now - c.menu[0] >= c.menu[-1] - now else c.menu[-1]
            moved = self.cap.cost({**here, **dict.fromkeys(c.groups, other)}) if other != now else self.base
            self.slopes.append((moved - self.base) / (other - now) if other != now else 0.0)

    def at(self, i: int, k: int) -> float:
        """What class i at width k adds to the base."""
        return self.slopes[i] * (k - self.here[self.classes[i].groups[0]])
