"""Latency of a whole network, predicted from the times of its segments and corrected by a few complete measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sartor.cost.parts import Cost, Part, counted_cost
from sartor.errors import BadInput
from sartor.measure.tables.correction import Correction, fitted_correction
from sartor.measure.tables.interpolation import interpolated
from sartor.measure.tables.random_plans import random_plans
from sartor.measure.tables.segment_module import shape_of
from sartor.measure.tables.segments import Kind, Point, Segment, points, segments
from sartor.measure.tables.table import Table
from sartor.measure.tables.timing import Timing
from sartor.structure.axes import new_size
from sartor.structure.graph import Graph
from sartor.types import SILENT, Counts, Listener

PLANS = 10  # complete networks that a correction is learned from
_TOPIC = "correction"  # of the notes in the tables' file


class Predictor:
    """Predicts the latency of any widths of one network on one target.

    Args:
        graph: of the network, traced at the target's batch size.
        table: of the target.

    Times are in seconds of the table. A correction scales them so that the original takes the sum of its segments: use
    shares of the original (`ratio`), not absolute seconds.
    """

    def __init__(self, graph: Graph, table: Table):
        self.graph, self.table = graph, table
        self.segments = segments(graph)
        if not self.segments:
            raise BadInput("latency of this network: expected operators that reach its output; found none")
        table.load(self.kinds)
        self._seconds: dict[tuple[tuple[str, int], ...], float] = {}  # predicted, by sorted counts
        self.correction = self._stored_correction()

    @property
    def kinds(self) -> dict[Kind, Point]:
        """Every kind of segment with its whole widths: the largest ones if it occurs several times."""
        kinds: dict[Kind, Point] = {}
        for s in self.segments:
            p = s.point({})
            kinds[s.kind] = tuple(map(max, p, kinds.get(s.kind, p)))
        return kinds

    def missing(self) -> bool:
        """Whether anything would have to be timed before this can predict."""
        return bool(self.table.missing(self.kinds))

    def gather(self, listener: Listener = SILENT) -> int:
        """Time what is missing; returns how many timings were taken."""
        taken = self.table.gather(self.kinds, listener)
        if taken:
            self._forget()
        return taken

    def sharpen(self, plans: Sequence[Counts], listener: Listener = SILENT) -> int:
        """Time the exact widths of some plans, so that no time of theirs is interpolated; returns how many timings."""
        works = [(s.kind, p) for c in plans for s, p in zip(self.segments, points(self.graph, c))]
        taken = self.table.time(list(dict.fromkeys(works)), listener)
        if taken:
            self._forget()
        return taken

    def __call__(self, counts: Counts) -> float:
        """Seconds once `counts[group]` units stay; groups not named are whole."""
        key = tuple(sorted(counts.items()))
        if key not in self._seconds:
            self._seconds[key] = float(self.features(counts) @ np.array(self.correction.weights))
        return self._seconds[key]

    def ratio(self, counts: Counts) -> float:
        """Share of the original's latency."""
        return self(counts) / self.original

    @property
    def original(self) -> float:
        """Seconds of the whole network that shares refer to.

        With a correction this is the sum of its segments, not the prediction for it: the prediction has an error of its
        own, and the complete measurements that the correction learned from are shares of the real network.
        """
        return float(self.features({})[0]) if self.correction.plans else self({})

    def features(self, counts: Counts) -> np.ndarray:
        """The features that the correction weighs, all in seconds of the table (see `correction.FEATURES`).

        They are the sum of the segments; the time to convert layouts where neighbours use different ones; and the
        numbers of weights, of moved activations and of segments, each scaled so that it equals the sum of the segments
        for the original.
        """
        features: np.ndarray = self._raw(counts) * self._scale
        return features

    @cached_property
    def _scale(self) -> np.ndarray:
        """Factors from the raw features to seconds of the table."""
        whole = self._raw({})
        return np.array([1.0, 1.0, *(whole[0] / max(w, 1e-30) for w in whole[2:])])

    def _raw(self, counts: Counts) -> np.ndarray:
        at = points(self.graph, counts)
        times = [self.table.timing(s.kind, p) for s, p in zip(self.segments, at)]
        conversions = sum(
            self._convert(s, p, t, slot, [_blocked(times[r].given, k) for r, k in self._readers.get((i, slot), ())])
            for i, (s, p, t) in enumerate(zip(self.segments, at, times))
            for slot in range(len(s.kind.spec["left"]))
        )
        kept = self.graph.leaf_counts(counts)
        weights = sum(math.prod(new_size(a, kept) for a in v.axes) for v in self.graph.tensors.values())
        moved = sum(_moved(s, p) for s, p in zip(self.segments, at))
        return np.array([sum(t.seconds for t in times), conversions, weights, moved, float(len(times))])

    @cached_property
    def _readers(self) -> dict[tuple[int, int], list[tuple[int, int]]]:
        """Readers of every output: (segment, output) -> [(segment, input)]; the network's own outputs have none."""
        readers: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for r, s in enumerate(self.segments):
            for k, source in enumerate(zip(s.given, s.given_slots)):
                readers.setdefault(source, []).append((r, k))
        return readers

    @cached_property
    def rate(self) -> float:
        """Seconds that the conversion of one tensor element to another layout takes."""
        return self.table.convert_rate(self.kinds)

    def learn(
        self,
        measure: Callable[[Counts], float],
        plans: Sequence[Counts] | None = None,
        listener: Listener = SILENT,
    ) -> Correction:
        """Measure complete networks and learn the correction, which is stored in the table's file for this network.

        Args:
            measure: kept units by group -> latency as a share of the original's.
            plans: which networks; None: PLANS random ones.
            listener: is told which network is measured.
        """
        plans = random_plans(self.graph, PLANS, seed=0) if plans is None else plans
        rows = []
        for i, counts in enumerate(plans):
            listener.tell(f"complete network {i + 1} of {len(plans)}")
            rows.append([dict(counts), float(measure(counts))])
        self.table.store.note(self.table.where, self._topic, self.graph.fingerprint, rows)
        self.correction = self._fitted(rows)
        self._seconds.clear()
        return self.correction

    @property
    def _topic(self) -> str:
        return f"{_TOPIC} {self.table.target.backend}"

    def _stored_correction(self) -> Correction:
        rows = self.table.store.noted(self.table.where, self._topic).get(self.graph.fingerprint)
        return self._fitted(rows) if rows and not self.missing() else Correction()

    def _fitted(self, rows: Sequence[Sequence[Any]]) -> Correction:
        """The correction from rows of kept units by group and measured ratio."""
        self._drop_derived()
        features = np.array([self.features(counts) for counts, _ in rows])
        return fitted_correction(features, [ratio for _, ratio in rows], self.features({}))

    def _forget(self) -> None:
        """After the table changed."""
        self._seconds.clear()
        self._drop_derived()
        self.correction = self._stored_correction()

    def _drop_derived(self) -> None:
        for name in ("_scale", "rate"):
            self.__dict__.pop(name, None)

    def slowest(self, counts: Counts, most: int = 5) -> list[tuple[Segment, float]]:
        """The segments that take longest, with their share of the sum."""
        at = points(self.graph, counts)
        seconds = [self.table.timing(s.kind, p).seconds for s, p in zip(self.segments, at)]
        total = sum(seconds)
        order = sorted(range(len(seconds)), key=lambda i: -seconds[i])[:most]
        return [(self.segments[i], seconds[i] / total) for i in order]

    def sources(self, counts: Counts) -> dict[str, int]:
        """Number of segments whose time was "timed", interpolated ("stairs") or predicted by regression ("trees")."""
        numbers = {"timed": 0, "stairs": 0, "trees": 0}
        for s, p in zip(self.segments, points(self.graph, counts)):
            numbers[self.table.source(s.kind, p)] += 1
        return numbers

    def cost(self) -> Cost:
        """Predicted seconds with the interface of counted costs: see `sartor.cost.Cost`.

        The parts add up to the prediction: one for every segment with the activations that it moves, one for every
        output whose layout may have to be converted, and the weights. The layout of an output and those that its
        readers expect depend on widths, so a part of a conversion depends on the groups of both sides.
        """
        units = {n: g.units for n, g in self.graph.groups.items()}
        return Cost("latency", self, (*self._smooth_parts(), *self._conversion_parts()), self.soft, units, stairs=True)

    def _smooth_parts(self) -> list[Part]:
        """Segments with the activations that they move, and weights."""
        return [*(Part(s.groups, partial(self._segment_seconds, s)) for s in self.segments), *self._weight_parts()]

    def _conversion_parts(self) -> list[Part]:
        """Outputs of segments whose layout may have to be converted; none if the runtime has a single layout."""
        whole = [self.table.timing(s.kind, s.point({})) for s in self.segments]
        if not any(t.left or t.given for t in whole):
            return []
        parts = []
        for i, s in enumerate(self.segments):
            for slot in range(len(s.kind.spec["left"])):
                readers = [(self.segments[r], k) for r, k in self._readers.get((i, slot), ())]
                groups = tuple(dict.fromkeys(g for one in (s, *(r for r, _ in readers)) for g in one.groups))
                parts.append(Part(groups, partial(self._conversion_seconds, (s, slot), readers, groups)))
        return parts

    def _segment_seconds(self, s: Segment, *counts: int) -> float:
        """Corrected seconds of one segment, with those of its moved activations and of its step."""
        w, scale = self.correction.weights, self._scale
        p = s.point(self.graph.leaf_counts(dict(zip(s.groups, counts))))
        return float(w[0] * self.table.timing(s.kind, p).seconds + w[3] * scale[3] * _moved(s, p) + w[4] * scale[4])

    def _conversion_seconds(
        self, output: tuple[Segment, int], readers: Sequence[tuple[Segment, int]], groups: Sequence[str], *counts: int
    ) -> float:
        """Corrected seconds of converting one output of a segment (segment, slot) to the layout of its readers."""
        s, slot = output
        kept = self.graph.leaf_counts(dict(zip(groups, counts)))
        p = s.point(kept)
        wants = [_blocked(self.table.timing(r.kind, r.point(kept)).given, k) for r, k in readers]
        return self.correction.weights[1] * self._convert(s, p, self.table.timing(s.kind, p), slot, wants)

    def _convert(self, s: Segment, p: Point, t: Timing, slot: int, wants: Sequence[bool]) -> float:
        """Seconds of converting an output; `wants` says of every reader whether it takes the blocked layout."""
        if _blocked(t.left, slot):
            return 0.0 if wants and all(wants) else t.convert_s[slot]
        return self.rate * math.prod(shape_of(s.kind, s.kind.spec["left"][slot], p)) if any(wants) else 0.0

    def _weight_parts(self) -> list[Part]:
        """Corrected seconds of the weights."""
        factor = self.correction.weights[2] * self._scale[2]
        if factor <= 0:
            return []
        params = counted_cost(self.graph, "params")
        return [Part(p.groups, lambda *c, p=p: factor * p.cost(*c)) for p in params.parts]  # type: ignore[misc]

    def soft(self, widths: Mapping[str, Tensor], *, step: int = 1) -> Tensor:
        """Predicted seconds as a function of soft widths: piecewise linear between whole widths.

        Args:
            widths: scalars by group, in units kept (fractions allowed); a group not named is whole.
            step: distance of the widths that are interpolated. 1 follows every step of the staircase; 8 gives the slope
                along the multiples of 8, which a search by gradient can use.

        Returns:
            A scalar in float64, differentiable; at multiples of `step` equal to the sum of the parts of `cost()`
            without conversions of layout, which have no useful slope.
        """
        total = torch.zeros((), dtype=torch.float64)
        for p in self._smooth_parts():
            total = total + interpolated(p, widths, {g: self.graph.groups[g].units for g in p.groups}, step)
        return total


def _blocked(layouts: Sequence[bool], k: int) -> bool:
    """Whether the k-th input or output has blocked channels; False if unknown."""
    return layouts[k] if k < len(layouts) else False


def _moved(s: Segment, p: Point) -> int:
    """Tensor elements that a segment reads and writes."""
    return sum(math.prod(shape_of(s.kind, i, p)) for i in (*s.kind.spec["given"], *s.kind.spec["left"]))
