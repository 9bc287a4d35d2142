"""Latency of a whole network from the times of its segments, corrected by a few complete measurements."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from sartor.cost.parts import Cost, Part
from sartor.errors import BadInput
from sartor.measure.tables.rebuild import shape_of
from sartor.measure.tables.segments import Kind, Point, Segment, points, segments
from sartor.measure.tables.table import Table, Tell
from sartor.measure.tables.timing import Timing
from sartor.structure.axes import new_size
from sartor.structure.graph import Graph
from sartor.types import Counts

PLANS = 10  # complete measurements a correction is learned from
FEATURES = ("segments", "conversions", "weights", "activations", "steps")
_PRIOR = (1.0, 1.0, 0.0, 0.0, 0.0)
_HOLD = (0.1, 0.3, 0.6, 0.6, 0.6)  # how firmly the prior is held, in measurements: features that say alike stay near it
_NOTES = "correction"


@dataclass(frozen=True)
class Correction:
    """Weights of the features, and how far complete measurements were from what the others said of them."""

    weights: tuple[float, ...] = _PRIOR
    error: float | None = None  # median share, each plan predicted from all others; None: nothing was measured
    plans: int = 0


class Predictor:
    """Predicts the latency of any widths of one network on one target.

    Args:
        graph: of the network, traced at the target's batch size.
        table: of the target.

    Times are in the seconds of the table. Where a correction was learned they are scaled so that the original has the
    table's own sum: shares of the original (`ratio`) are what to trust.
    """

    def __init__(self, graph: Graph, table: Table):
        self.graph, self.table = graph, table
        self.segments = segments(graph)
        if not self.segments:
            raise BadInput("latency of this network: expected operators that reach its output; found none")
        table.load(self.kinds)
        self.correction = self._remembered()
        self._rate: float | None = None
        self._memory: dict[tuple[tuple[str, int], ...], float] = {}
        self._whole: np.ndarray | None = None

    @property
    def kinds(self) -> dict[Kind, Point]:
        """Every kind of segment with its whole widths."""
        found: dict[Kind, Point] = {}
        for s in self.segments:
            p = s.point({})
            found[s.kind] = tuple(map(max, p, found.get(s.kind, p)))
        return found

    def missing(self) -> bool:
        """Whether anything would have to be timed before this can predict."""
        return bool(self.table.missing(self.kinds))

    def gather(self, tell: Tell = lambda text: None) -> int:
        """Time what is missing; returns how many timings were taken."""
        taken = self.table.gather(self.kinds, tell)
        if taken:
            self._forget()
        return taken

    def sharpen(self, plans: Sequence[Counts], tell: Tell = lambda text: None) -> int:
        """Time the exact widths of some plans, so that nothing between is guessed for them."""
        works = [(s.kind, p) for c in plans for s, p in zip(self.segments, points(self.graph, c))]
        taken = self.table.time(list(dict.fromkeys(works)), tell)
        if taken:
            self._forget()
        return taken

    def __call__(self, counts: Counts) -> float:
        """Seconds once `counts[group]` units stay; groups not named are whole."""
        key = tuple(sorted(counts.items()))
        if key not in self._memory:
            self._memory[key] = float(self.features(counts) @ np.array(self.correction.weights))
        return self._memory[key]

    def ratio(self, counts: Counts) -> float:
        """Share of the original's latency."""
        return self(counts) / self.original

    @property
    def original(self) -> float:
        """Seconds of the whole network that shares refer to.

        Once a correction was learned this is not what is predicted for it: its widths are as liable to error in the
        table as any others, and complete measurements are shares of the real one.
        """
        return float(self.features({})[0]) if self.correction.plans else self({})

    def features(self, counts: Counts) -> np.ndarray:
        """What the correction weighs, all in seconds of the table (see FEATURES).

        The sum of the segments; what it takes to change layouts where neighbours disagree; weights and activations
        moved, and the number of steps, each on the scale of the original's sum.
        """
        found: np.ndarray = self._raw(counts) * self._scale
        return found

    @property
    def _scale(self) -> np.ndarray:
        """What brings the raw features to seconds of the table."""
        if self._whole is None:
            self._whole = self._raw({})
        whole = self._whole
        return np.array([1.0, 1.0, *(whole[0] / max(w, 1e-30) for w in whole[2:])])

    def _raw(self, counts: Counts) -> np.ndarray:
        at = points(self.graph, counts)
        times = [self.table.timing(s.kind, p) for s, p in zip(self.segments, at)]
        change = sum(
            self._convert(s, p, t, slot, [_blocked(times[r].given, k) for r, k in self._readers.get((i, slot), ())])
            for i, (s, p, t) in enumerate(zip(self.segments, at, times))
            for slot in range(len(s.kind.spec["left"]))
        )
        kept = self.graph.leaf_counts(counts)
        weights = sum(math.prod(new_size(a, kept) for a in v.axes) for v in self.graph.tensors.values())
        moved = sum(_moved(s, p) for s, p in zip(self.segments, at))
        return np.array([sum(t.seconds for t in times), change, weights, moved, float(len(times))])

    @cached_property
    def _readers(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Who reads an output: (segment, which output) -> [(segment, which input)]; nobody: the network's caller."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for r, s in enumerate(self.segments):
            for k, source in enumerate(zip(s.given, s.given_slots)):
                found.setdefault(source, []).append((r, k))
        return found

    @property
    def rate(self) -> float:
        """Seconds an element takes to change layout."""
        if self._rate is None:
            self._rate = self.table.convert_rate(self.kinds)
        return self._rate

    def learn(
        self, measure: Callable[[Counts], float], plans: Sequence[Counts] | None = None, tell: Tell = lambda text: None
    ) -> Correction:
        """Measure complete networks and learn the correction; kept in the table's file for this network.

        Args:
            measure: kept units by group -> latency as a share of the original's.
            plans: which networks; None: PLANS random ones.
        """
        plans = random_plans(self.graph, PLANS, seed=0) if plans is None else plans
        rows = []
        for i, counts in enumerate(plans):
            tell(f"complete network {i + 1} of {len(plans)}")
            rows.append([dict(counts), float(measure(counts))])
        self.table.store.note(self.table.where, f"{_NOTES} {self.table.target.backend}", self.graph.fingerprint, rows)
        self.correction = self._fitted(rows)
        self._memory.clear()
        return self.correction

    def _remembered(self) -> Correction:
        noted = self.table.store.noted(self.table.where, f"{_NOTES} {self.table.target.backend}")
        rows = noted.get(self.graph.fingerprint)
        return self._fitted(rows) if rows and not self.missing() else Correction()

    def _fitted(self, rows: Sequence[Sequence[Any]]) -> Correction:
        self._rate = self._whole = None
        x = np.array([self.features(counts) for counts, _ in rows])
        whole = self.features({})
        y = np.array([ratio for _, ratio in rows]) * whole[0]
        off = []
        for i in range(len(rows)):
            others = [k for k in range(len(rows)) if k != i]
            w = _weights(x[others], y[others], whole)
            off.append(abs((x[i] @ w) / y[i] - 1))
        return Correction(tuple(_weights(x, y, whole)), statistics.median(off) if len(rows) > 2 else None, len(rows))

    def _forget(self) -> None:
        self._memory.clear()
        self._rate = self._whole = None
        self.correction = self._remembered()

    def slowest(self, counts: Counts, most: int = 5) -> list[tuple[Segment, float]]:
        """The segments that take longest, with their share of the sum."""
        at = points(self.graph, counts)
        seconds = [self.table.timing(s.kind, p).seconds for s, p in zip(self.segments, at)]
        total = sum(seconds)
        order = sorted(range(len(seconds)), key=lambda i: -seconds[i])[:most]
        return [(self.segments[i], seconds[i] / total) for i in order]

    def sources(self, counts: Counts) -> dict[str, int]:
        """How many segments' times were "timed", read from "stairs", or from "trees"."""
        found = {"timed": 0, "stairs": 0, "trees": 0}
        for s, p in zip(self.segments, points(self.graph, counts)):
            found[self.table.source(s.kind, p)] += 1
        return found

    def cost(self) -> Cost:
        """Predicted seconds behind the same interface as counted costs: see `sartor.cost.Cost`.

        The parts add up to what is predicted: one for every segment with the activations it moves, one for every output
        of a segment that may have to change its layout, and the weights. Which layout an output has and which its
        readers want depends on widths, so those parts have the groups of both sides.
        """
        units = {n: g.units for n, g in self.graph.groups.items()}
        return Cost("latency", self, (*self._smooth_parts(), *self._change_parts()), self.soft, units, stairs=True)

    def _smooth_parts(self) -> list[Part]:
        """Segments with the activations they move, and weights."""
        return [*(Part(s.groups, partial(self._own, s)) for s in self.segments), *self._weight_parts()]

    def _change_parts(self) -> list[Part]:
        """Outputs of segments that may have to change their layout; none where the runtime has one layout only."""
        whole = [self.table.timing(s.kind, s.point({})) for s in self.segments]
        if not any(t.left or t.given for t in whole):
            return []
        parts = []
        for i, s in enumerate(self.segments):
            for slot in range(len(s.kind.spec["left"])):
                by = [(self.segments[r], k) for r, k in self._readers.get((i, slot), ())]
                groups = tuple(dict.fromkeys(g for one in (s, *(r for r, _ in by)) for g in one.groups))
                parts.append(Part(groups, partial(self._change, s, slot, by, groups)))
        return parts

    def _own(self, s: Segment, *counts: int) -> float:
        """Seconds of one segment, with its share of activations and steps as the correction weighs them."""
        w, scale = self.correction.weights, self._scale
        p = s.point(self.graph.leaf_counts(dict(zip(s.groups, counts))))
        return float(w[0] * self.table.timing(s.kind, p).seconds + w[3] * scale[3] * _moved(s, p) + w[4] * scale[4])

    def _change(
        self, s: Segment, slot: int, by: Sequence[tuple[Segment, int]], groups: Sequence[str], *counts: int
    ) -> float:
        """Seconds that one output of a segment takes to change its layout for those who read it."""
        kept = self.graph.leaf_counts(dict(zip(groups, counts)))
        p = s.point(kept)
        wants = [_blocked(self.table.timing(r.kind, r.point(kept)).given, k) for r, k in by]
        return self.correction.weights[1] * self._convert(s, p, self.table.timing(s.kind, p), slot, wants)

    def _convert(self, s: Segment, p: Point, t: Timing, slot: int, wants: Sequence[bool]) -> float:
        if _blocked(t.left, slot):
            return 0.0 if wants and all(wants) else t.convert_s[slot]
        return self.rate * math.prod(shape_of(s.kind, s.kind.spec["left"][slot], p)) if any(wants) else 0.0

    def _weight_parts(self) -> list[Part]:
        """Weights, as the correction weighs them."""
        from sartor.cost.parts import counted_cost

        factor = self.correction.weights[2] * self._scale[2]
        if factor <= 0:
            return []
        params = counted_cost(self.graph, "params")
        return [Part(p.groups, lambda *c, p=p: factor * p.cost(*c)) for p in params.parts]  # type: ignore[misc]

    def soft(self, widths: Mapping[str, Tensor], *, step: int = 1) -> Tensor:
        """Predicted seconds as a function of soft widths: piecewise linear between whole ones.

        Args:
            widths: scalars by group, in units kept (fractions allowed); a group not named is whole.
            step: distance of the widths between which lines are drawn. 1 follows every step of the staircase; 8 gives
                the slope along the multiples of 8, which is what a search by gradient can use.

        Returns:
            A scalar in float64, differentiable; at multiples of `step` equal to the sum of the parts of `cost()`, less
            changes of layout, which have no slope.
        """
        total = torch.zeros((), dtype=torch.float64)
        for p in self._smooth_parts():
            total = total + _interpolated(p, widths, {g: self.graph.groups[g].units for g in p.groups}, step)
        return total


def _blocked(layouts: Sequence[bool], k: int) -> bool:
    """Whether the k-th input or output is in blocked channels; unknown: not."""
    return layouts[k] if k < len(layouts) else False


def _moved(s: Segment, p: Point) -> int:
    """Elements that a segment reads and writes."""
    return sum(math.prod(shape_of(s.kind, i, p)) for i in (*s.kind.spec["given"], *s.kind.spec["left"]))


def _interpolated(part: Part, widths: Mapping[str, Tensor], units: Mapping[str, int], step: int) -> Tensor:
    """Multilinear between the corners of the cell that the widths lie in."""
    free = [g for g in part.groups if g in widths]
    if not free:
        return torch.tensor(part.cost(*(units[g] for g in part.groups)), dtype=torch.float64)
    cells: list[list[tuple[int, Tensor]]] = []
    for g in part.groups:
        if g not in widths:
            cells.append([(units[g], torch.ones((), dtype=torch.float64))])
            continue
        w = widths[g].reshape(()).double()
        n = min(max(float(w.detach()), 1.0), float(units[g]))
        low = max(1, math.floor(n / step) * step)
        high = min(units[g], max(low + 1, math.floor(n / step) * step + step))
        if high <= low:
            low = max(1, high - step)
        if high == low:
            cells.append([(high, torch.ones((), dtype=torch.float64))])
            continue
        share = ((w - low) / (high - low)).clamp(0, 1) if low < high else torch.ones((), dtype=torch.float64)
        cells.append([(low, 1 - share), (high, share)])
    total = torch.zeros((), dtype=torch.float64)
    for corner in itertools.product(*cells):
        weight = torch.ones((), dtype=torch.float64)
        for _, w in corner:
            weight = weight * w.cpu()
        total = total + weight * part.cost(*(n for n, _ in corner))
    return total


def _weights(x: np.ndarray, y: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Nonnegative least squares of relative errors, held near the prior; the original itself is one of them."""
    scale = whole[0]
    prior, hold = np.array(_PRIOR), np.array(_HOLD)
    rows = [x / y[:, None], whole[None] / scale, np.diag(hold)]
    goal = [np.ones(len(y)), np.ones(1), hold * prior]
    found, _ = nnls(np.concatenate(rows), np.concatenate(goal))
    weights: np.ndarray = found
    return weights


def random_plans(graph: Graph, number: int, seed: int, *, least: float = 0.2) -> list[dict[str, int]]:
    """Kept units drawn at random, ties respected: each plan has its own lowest share and its own multiple (1, 4 or 8).

    >>> from sartor.structure import trace
    >>> graph = trace(torch.nn.Sequential(torch.nn.Linear(4, 32), torch.nn.Linear(32, 2)), torch.zeros(1, 4))
    >>> all(6 <= c["0"] <= 32 for c in random_plans(graph, 5, seed=1))
    True
    """
    rng = random.Random(seed)
    found = []
    for i in range(number):
        step, low = (1, 8, 4, 8)[i % 4], rng.uniform(least, 0.75)
        counts = {}
        for name, g in graph.groups.items():
            k = rng.randint(max(1, math.ceil(low * g.units)), g.units)
            counts[name] = max(step, k // step * step) if g.units >= 2 * step else k
        for tie in graph.ties:
            counts.update({n: counts[tie[0]] for n in tie})
        found.append(counts)
    return found
