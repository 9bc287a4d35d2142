"""Times segments with ONNX Runtime's profiler: many segments in one model, node by node.

A segment that is run alone converts its tensors to the blocked layout and back, which it mostly does not do inside a
network. So a convolution whose outputs are blocked feeds its four-dimensional inputs, its outputs are read as they are,
and the nodes of the optimised graph are attributed: to the segment, to what feeds it, or to conversions at its border.

Every model is run twice, some seconds apart, because the speed of a machine changes (see `profiler.py`); the mean of
both counts.

Source: the blocked layout is `NchwcTransformer` of ONNX Runtime.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.measure.tables.profiler import REFERENCE, Clock, Reference, Session, exported, makers, upstream
from sartor.measure.tables.segment_module import CannotRebuild, SegmentModule, segment_module
from sartor.measure.tables.timing import Timing, Work, chunks
from sartor.types import Target

RUNS = 12  # of a model, at least, in each of the two passes
RUNS_S = 0.25  # ... and for at least this long
MOST_RUNS = 40
ReferenceStore = Callable[[float | None], float | None]  # stores seconds; called with None it returns the stored ones
_REORDER = ("ReorderOutput", "ReorderInput")
_REFUSALS = (CannotRebuild, RuntimeError, TypeError, ValueError, NotImplementedError, KeyError)


class ProfileTimer:
    """A `Timer` that uses the profiler.

    Args:
        reference: stores the first time of the reference kernel, by which other processes normalise theirs too; None:
            it is not stored.
    """

    def __init__(self, reference: ReferenceStore | None = None):
        self._reference: ReferenceStore = reference or (lambda seconds: None)
        self._clocks: dict[Target, Clock] = {}

    def __call__(self, works: Sequence[Work], target: Target) -> list[Timing | None]:
        clock = self._clock(target)
        timings: list[Timing | None] = []
        before: list[_Model | None] = []
        for chunk in [*chunks(works), []]:
            after = _prepared(chunk, target)  # so that some seconds pass between the two passes of a model
            for m in before:
                timings += m.end(clock) if m else [None]
            before = after
        return timings

    def _clock(self, target: Target) -> Clock:
        if target not in self._clocks:
            known = self._reference(None)
            clock = self._clocks[target] = Clock(target, known)
            clock.begin()
            if known is None:
                self._reference(clock.unit)
        return self._clocks[target]


def _prepared(works: Sequence[Work], target: Target) -> list[_Model | None]:
    """All works in one model, run once; if that fails, in two halves, down to the single work that fails."""
    if not works:
        return []
    try:
        return [_Model([segment_module(kind, point) for kind, point in works], target)]
    except Exception as e:  # an exporter or a runtime may raise anything
        if len(works) == 1:
            if isinstance(e, _REFUSALS):
                return [None]
            raise
        half = len(works) // 2
        return _prepared(works[:half], target) + _prepared(works[half:], target)


class _Many(nn.Module):
    """Independent segments side by side, and the reference kernel."""

    def __init__(self, modules: Sequence[SegmentModule], dtype: torch.dtype):
        super().__init__()
        self.each = nn.ModuleList(modules)
        self.feeders = nn.ParameterList()
        self.fed: list[list[int | None]] = []
        self.inputs: list[Tensor] = []
        for module in modules:
            row: list[int | None] = []
            for t in module.inputs():
                t = t.to(dtype) if t.is_floating_point() else t
                if t.dim() == 4 and t.is_floating_point():
                    row.append(len(self.feeders))
                    self.feeders.append(nn.Parameter(0.1 * torch.randn(t.shape[1], 1, 1, 1)))
                    t = torch.randn(t.shape[0], 1, *t.shape[2:]).to(dtype)
                else:
                    row.append(None)
                self.inputs.append(t)
            self.fed.append(row)
        self.reference = Reference()
        self.inputs += [t.to(dtype) for t in self.reference.inputs()]
        self.to(dtype)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        left = list(given)
        out: list[Tensor] = []
        for module, row in zip(self.each, self.fed):
            taken = [left.pop(0) for _ in row]
            # without the activation, a later addition would be fused into the feeding convolution
            made = [x if f is None else F.relu(F.conv2d(x, self.feeders[f])) for x, f in zip(taken, row)]
            out += module(*made)
        return (*out, *self.reference(*left))


class _Model:
    """Segments in one model; a first pass runs when it is made, a second one at the end."""

    def __init__(self, modules: Sequence[SegmentModule], target: Target):
        self.modules = modules
        many = _Many(modules, getattr(torch, target.dtype)).eval().requires_grad_(False)
        self.fed = many.fed
        names = [f"x{i}" for i in range(len(many.inputs))]
        outs = [f"y{i}_{k}" for i, m in enumerate(modules) for k in range(m.outputs)]
        data = exported(many, tuple(many.inputs), names, [*outs, *REFERENCE])
        self._folder = tempfile.TemporaryDirectory()
        try:
            feed = dict(zip(names, (t.numpy() for t in many.inputs)))
            self._session = Session(data, feed, target, Path(self._folder.name))
            self._runs = [self._run()]
        except BaseException:
            self._folder.cleanup()
            raise

    def _run(self) -> int:
        """One pass: two runs that do not count, then those that do; returns the number of the latter."""
        begin = time.perf_counter()
        self._session.run()
        self._session.run()
        each = (time.perf_counter() - begin) / 2
        runs = max(RUNS, min(MOST_RUNS, math.ceil(RUNS_S / max(each, 1e-6))))
        for _ in range(runs):
            self._session.run()
        return runs

    def end(self, clock: Clock) -> list[Timing]:
        """Run the second pass; the mean of both."""
        self._runs.append(self._run())
        with self._folder:
            graph, taken = self._session.end()
        each, start = [], 0
        for runs in self._runs:
            start += 2
            each.append(clock.normalised(graph, {n: v[start : start + runs] for n, v in taken.items()}))
            start += runs
        return _attributed(self.modules, self.fed, graph, {n: statistics.fmean(t[n] for t in each) for n in taken})


def _attributed(
    modules: Sequence[SegmentModule], fed: Sequence[Sequence[int | None]], model: Any, seconds: Mapping[str, float]
) -> list[Timing]:
    """Attribute the nodes of the optimised graph to segments: each owns all nodes upstream of its outputs."""
    nodes = list(model.graph.node)
    maker = makers(nodes)
    readers: dict[str, list[int]] = defaultdict(list)
    for n, node in enumerate(nodes):
        for name in node.input:
            readers[name].append(n)
    starts: list[list[str | None]] = []
    number = 0
    for row in fed:
        starts.append([f"x{number + k}" if f is not None else None for k, f in enumerate(row)])
        number += len(row)
    timings = []
    for i, module in enumerate(modules):
        outs = [f"y{i}_{k}" for k in range(module.outputs)]
        mine = upstream(outs, nodes, maker)
        aside: set[int] = set()
        given = [False] * len(fed[i])
        for k, name in enumerate(starts[i]):
            if name is None:
                continue
            feeders = [n for n in readers[name] if n in mine]
            aside |= set(feeders)
            after = [n for f in feeders for o in nodes[f].output for n in readers[o]]
            given[k] = any(nodes[n].op_type not in _REORDER for n in after)
            aside |= {n for n in after if nodes[n].op_type in _REORDER}
        left, convert = [], []
        for name in outs:
            last = maker.get(name)
            own = last is not None and nodes[last].op_type == "ReorderOutput" and not readers[name]
            left.append(own)
            convert.append(seconds.get(nodes[last].name, 0.0) if own and last is not None else 0.0)
            if own and last is not None:
                aside.add(last)
        total = sum(seconds.get(nodes[n].name, 0.0) for n in mine - aside)
        timings.append(Timing(max(total, 1e-7), tuple(given), tuple(left), tuple(convert)))
    return timings
