"""Allocation as a multiple-choice knapsack: one width for every group, chosen on measured or counted costs.

Every group, or class of tied groups, takes one width from its menu. The loss is the sum over groups of the scores of
removed units, divided by the share of the group's score that is kept. Every limit is a sum of parts that depend on one
or two widths, which makes a mixed-integer linear program: one binary variable for every choice, and for every part of
two groups one variable for every pair of their choices. Parts that depend on more groups, and costs without `parts`,
are linearised around the best widths so far, and the program is solved again until the widths do not change.

Source: latency constraints as a knapsack, Shen et al. 2022, "HALP", arXiv:2110.10811. There the cost of a layer depends
on its own width only, and a unit is worth its score independently of what else is kept of its layer.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_matrix

from sartor.allocate.bundles import Bundle, RoundTo, bundles, kept, ladder, step_of, tied_classes
from sartor.allocate.exact import cut_until_met, feasible, put_back
from sartor.allocate.registry import ALLOCATORS, Cap, Keep
from sartor.measure.silence_output import silent_stdout
from sartor.types import Counts, Scores

_MENU = 14  # widths a class may choose from
_CANDIDATES = 64  # widths considered for the menu
_PAIRS = 30_000  # pairs of choices at most; if there are more, parts of two groups are linearised
_ROUNDS = 6  # programs solved at most
_SECONDS = 2.0  # time limit of one program
_GAP = 5e-3  # relative optimality gap at which a program counts as solved
_LEAST_SHARE = 1e-3  # of a group's score: with less kept, its loss does not grow further
_SAME = 0.01  # a width is left out of the menu if a wider one costs at most this share more


@dataclass
class _Class:
    """Groups that take the same width."""

    groups: tuple[str, ...]
    menu: list[int]  # ascending; the last is the full width
    value: list[float]  # minus the loss at each width, see `_worth`


@dataclass
class _Program:
    """A mixed-integer linear program under construction; every variable lies in [0, 1]."""

    objective: list[float] = field(default_factory=list)  # minimised
    integrality: list[int] = field(default_factory=list)  # 1: a binary variable
    rows: list[tuple[list[int], list[float], float, float]] = field(default_factory=list)
    # (variables, coefficients, lower bound, upper bound)

    def variable(self, value: float, *, binary: bool) -> int:
        """Add a variable; `value` is maximised. Returns its number."""
        self.objective.append(-value)
        self.integrality.append(int(binary))
        return len(self.objective) - 1

    def row(self, variables: Sequence[int], factors: Sequence[float], low: float, high: float) -> None:
        """Add the constraint low <= factors * variables <= high."""
        self.rows.append((list(variables), list(factors), low, high))

    def solution(self) -> np.ndarray | None:
        """The values of all variables; None if there is no solution."""
        data, columns, starts = [], [], [0]
        for variables, factors, _, _ in self.rows:
            columns += variables
            data += factors
            starts.append(len(columns))
        matrix = csr_matrix((data, columns, starts), shape=(len(self.rows), len(self.objective)))
        low, high = (np.array([r[k] for r in self.rows]) for k in (2, 3))
        with silent_stdout():  # the solver prints messages about its own bugs
            result = milp(
                np.array(self.objective), constraints=LinearConstraint(matrix, low, high), bounds=Bounds(0, 1),
                integrality=np.array(self.integrality), options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
            )  # fmt: skip
        x: np.ndarray | None = result.x
        return x


@ALLOCATORS.register(
    "knapsack", source="Shen et al. 2022, arXiv:2110.10811 (multiple-choice knapsack)", reads_tables=True
)
def knapsack(
    scores: Scores,
    limits: Sequence[Cap | tuple[Callable[[Counts], float], float]],
    units: Mapping[str, int],
    *,
    ties: Sequence[Sequence[str]] = (),
    floor: float = 0.1,
    round_to: RoundTo = 1,
) -> Keep:
    """The widths with the least loss, chosen on the true costs, which may have steps (as latency has).

    Scores should not be divided by cost, because the limits already contain the costs. See `Allocator` for arguments,
    result and errors. Under a cost with steps, units are put back from one width of the menu to the next.
    """
    caps = [Cap(*x) for x in limits]
    steps = bundles(scores, units, ties, floor, round_to)
    fits = feasible(caps, steps, scores)  # raises if nothing has to be cut, or if the caps cannot be met
    classes = _classes(scores, caps, units, ties, floor, round_to)
    stairs = any(getattr(c.cost, "stairs", False) for c in caps)
    order = _menu_steps(classes) if stairs else sorted(steps, key=lambda b: (b.score, b.depth))
    best = _searched(classes, caps, units, fits)
    if best is None:  # no plan of the linearised programs meets the true caps
        return cut_until_met(order, caps, scores)
    best = put_back(best, [b for b in order if all(best[g] < b.before for g in b.groups)], fits)
    return kept(scores, {g: k for g, k in best.items() if k < units[g]})


def _classes(
    scores: Scores,
    caps: Sequence[Cap],
    units: Mapping[str, int],
    ties: Sequence[Sequence[str]],
    floor: float,
    round_to: RoundTo,
) -> list[_Class]:
    classes = []
    scale = max((float(scores[g].double().abs().sum()) for g in units), default=1.0) or 1.0
    for together in tied_classes(units, ties):
        n = units[together[0]]
        widths = ladder(n, floor, step_of(round_to, n))
        candidates = _coarse(widths, n)
        menu = _menu(candidates, lambda k, t=together: [_share(c, t, k, units) for c in caps])  # type: ignore[misc]
        total: Any = sum(scores[g].double().sort(descending=True).values for g in together)
        worth = _worth(total.numpy() / scale)
        classes.append(_Class(together, menu, [float(worth[k - 1]) for k in menu]))
    return classes


def _worth(scores: np.ndarray) -> np.ndarray:
    """Minus the loss if the first 1, 2, ... units of a group stay: score removed / share of the score kept.

    If few units are removed, the loss is about the sum of their scores; if few stay, it grows without bound. With the
    sum alone, the program would nearly empty a few expensive groups, which then become bottlenecks of the network.

    Args:
        scores: [units], descending. If there are negative scores, the lowest is subtracted from all.

    Returns:
        [units], ascending to 0, with differences that do not increase.

    >>> _worth(np.array([2.0, 1.0, 1.0]))
    array([-4.        , -1.33333333,  0.        ])
    """
    shifted = scores - min(0.0, float(scores[-1]))
    kept = shifted.cumsum()
    whole = float(kept[-1]) or 1.0
    worth: np.ndarray = (kept - kept[-1]) / np.maximum(kept / whole, _LEAST_SHARE)
    return worth


def _coarse(widths: Sequence[int], n: int) -> list[int]:
    """About _CANDIDATES widths: both ends, and multiples of a power of two, at which the latency of kernels jumps."""
    step = 1
    while n // step > _CANDIDATES:
        step *= 2
    return sorted({k for k in widths if k % step == 0} | {widths[0], widths[-1]})


def _share(cap: Cap, together: Sequence[str], k: int, units: Mapping[str, int]) -> float:
    """The share of a limit that the parts of one class take at a width, with all other groups whole."""
    parts = getattr(cap.cost, "parts", None)
    if parts is None:
        return float(k)  # the cost grows with the width; nothing else is known
    mine = [p for p in parts if any(g in together for g in p.groups)]
    whole = {**getattr(cap.cost, "whole", {}), **units}
    cost: float = sum(p.cost(*(k if g in together else whole[g] for g in p.groups)) for p in mine)
    return cost / max(cap.at_most, 1e-30)


def _menu(widths: Sequence[int], costs: Callable[[int], list[float]]) -> list[int]:
    """Useful widths, without those of which a wider one is as cheap; spread evenly from narrow to whole."""
    rows = [(k, costs(k)) for k in widths]
    useful: list[int] = []
    least: list[float] | None = None
    for k, row in reversed(rows):  # descending
        if least is None or k == rows[0][0] or any(c < b * (1 - _SAME) for c, b in zip(row, least)):
            useful.append(k)
            least = row if least is None else [min(a, b) for a, b in zip(row, least)]
    useful.reverse()
    if len(useful) > _MENU:
        marks = np.linspace(useful[0], useful[-1], _MENU)
        useful = sorted({min(useful, key=lambda k: abs(k - m)) for m in marks})
    return useful


def _menu_steps(classes: Sequence[_Class]) -> list[Bundle]:
    """The steps between neighbouring widths of the menus as bundles; those with the best value per unit come last."""
    steps = []
    for c in classes:
        for (low, a), (high, b) in itertools.pairwise(zip(c.menu, c.value)):
            per_unit = (b - a) / (high - low)
            steps.append(Bundle(c.groups, high, low, per_unit, 1 - (low + high) / (2 * c.menu[-1])))
    return sorted(steps, key=lambda b: (b.score, b.depth))


def _searched(
    classes: Sequence[_Class], caps: Sequence[Cap], units: Mapping[str, int], fits: Callable[[Counts], bool]
) -> dict[str, int] | None:
    """The best counts that fit: solve a program, compute the true costs, and solve again around the solution."""
    here = {g: c.menu[-1] for c in classes for g in c.groups}
    tight = [1.0] * len(caps)
    linear = {id(c): _LinearCost(c, classes) for c in caps if not hasattr(c.cost, "parts")}
    best: tuple[float, dict[str, int]] | None = None
    for _ in range(_ROUNDS):
        widths = _solution(_Problem(classes, caps, units, linear), here, tight)
        if widths is None:
            here = best[1] if best else {g: c.menu[0] for c in classes for g in c.groups}
            tight = [(1 + t) / 2 for t in tight]
            continue
        counts = {g: k for c, k in zip(classes, widths) for g in c.groups}
        value = sum(c.value[c.menu.index(k)] for c, k in zip(classes, widths))
        if fits(counts) and (best is None or value > best[0]):
            best = value, counts
        real = [c.cost(counts) / max(c.at_most, 1e-30) for c in caps]
        settled = counts == here
        # the linearised costs met the limit; where the true cost does not, the limit is lowered by the same factor
        tight = [t * min(1.0, 0.999 / r) if r > 1 else t for t, r in zip(tight, real)]
        here = counts
        if settled and all(r <= 1 for r in real):
            break
    return best[1] if best else None


@dataclass(frozen=True)
class _Problem:
    """What stays the same from one program to the next."""

    classes: Sequence[_Class]
    caps: Sequence[Cap]
    units: Mapping[str, int]
    linear: Mapping[int, _LinearCost]  # id of a cap -> its linearised cost, for caps without parts


def _solution(problem: _Problem, here: Counts, tight: Sequence[float]) -> list[int] | None:
    """The widths of all classes that solve the program; None if it has no solution.

    Args:
        problem: classes and caps.
        here: the counts around which costs are linearised.
        tight: for every cap, the share of it that the program may use.
    """
    classes, caps, units = problem.classes, problem.caps, problem.units
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
        line = problem.linear.get(id(cap))
        if line is not None:
            line.update(here)
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
    x = program.solution()
    if x is None:
        return None
    return [c.menu[int(np.argmax([x[v] for v in row]))] for c, row in zip(classes, choice)]


def _involved(groups: Sequence[str], of: Mapping[str, int]) -> tuple[int, ...]:
    return tuple(sorted({of[g] for g in groups if g in of}))


def _paired(
    program: _Program, choice: Sequence[Sequence[int]], inside: tuple[int, ...], pairs: dict[Any, list[list[int]]]
) -> list[list[int]]:
    """One variable for every pair of choices of two classes; their sums equal the classes' own variables."""
    a, b = (choice[i] for i in inside)
    grid = [[program.variable(0.0, binary=False) for _ in b] for _ in a]
    for i, v in enumerate(a):
        program.row([*grid[i], v], [*[1.0] * len(b), -1.0], 0.0, 0.0)
    for j, v in enumerate(b):
        program.row([*(row[j] for row in grid), v], [*[1.0] * len(a), -1.0], 0.0, 0.0)
    pairs[inside] = grid
    return grid


class _LinearCost:
    """A cost without parts, linearised in the width of every class around given counts; updated at most twice."""

    def __init__(self, cap: Cap, classes: Sequence[_Class]):
        self.cap, self.classes, self.updates = cap, classes, 0
        self.base, self.here, self.slopes = 0.0, {}, []  # type: float, dict[str, int], list[float]

    def update(self, here: Counts) -> None:
        """Linearise around `here`."""
        if self.updates == 2:
            return
        self.updates += 1
        self.here, self.base, self.slopes = dict(here), self.cap.cost(here), []
        for c in self.classes:
            now = here[c.groups[0]]
            other = c.menu[0] if now - c.menu[0] >= c.menu[-1] - now else c.menu[-1]
            moved = self.cap.cost({**here, **dict.fromkeys(c.groups, other)}) if other != now else self.base
            self.slopes.append((moved - self.base) / (other - now) if other != now else 0.0)

    def at(self, i: int, k: int) -> float:
        """Difference to the base cost if class i has width k."""
        return self.slopes[i] * (k - self.here[self.classes[i].groups[0]])
