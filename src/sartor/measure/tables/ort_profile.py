"""Segments timed by ONNX Runtime's own profiler: many of them in one model, node by node.

A segment alone would begin and end in the common layout and pay for blocking and unblocking its tensors, which inside
a network it mostly does not. So its four-dimensional inputs come from a convolution that gives blocked channels, its
outputs are read as they are, and the nodes between are told apart: what belongs to the segment, what feeds it, and what
changes layouts at its border.

Every model is run twice, some seconds apart, for a machine's speed changes (see `profiler.py`); the mean counts.

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
from sartor.measure.tables.rebuild import CannotRebuild, Rebuilt, rebuilt
from sartor.measure.tables.timing import Timing, Work, chunks
from sartor.types import Target

RUNS = 12  # of a model of many segments, at least, each of both times
RUNS_S = 0.25  # ... or as long as this
MOST_RUNS = 40
Noted = Callable[[float | None], float | None]  # told a number it keeps it; told None it gives the one it has
_REORDER = ("ReorderOutput", "ReorderInput")
_REFUSALS = (CannotRebuild, RuntimeError, TypeError, ValueError, NotImplementedError, KeyError)


class Profiled:
    """Times from the profiler; see `Timer`.

    Args:
        noted: keeps what the reference took at first, so that other processes tell times alike; None: nobody does.
    """

    def __init__(self, noted: Noted | None = None):
        self._noted: Noted = noted or (lambda seconds: None)
        self._clocks: dict[Target, Clock] = {}

    def __call__(
        self, works: Sequence[Work], target: Target, *, tell: Callable[[int], None] = lambda done: None
    ) -> list[Timing | None]:
        clock = self._clock(target)
        found: list[Timing | None] = []
        before: list[_Model | None] = []
        for chunk in [*chunks(works), []]:
            after = _prepared(chunk, target)
            for m in before:
                found += m.end(clock) if m else [None]
            before = after
            tell(len(found))
        return found

    def _clock(self, target: Target) -> Clock:
        if target not in self._clocks:
            known = self._noted(None)
            clock = self._clocks[target] = Clock(target, known)
            clock.begin()
            if known is None:
                self._noted(clock.unit)
        return self._clocks[target]


def _prepared(works: Sequence[Work], target: Target) -> list[_Model | None]:
    """All in one model, run once; where that cannot be, halves of it, down to the one that is to blame."""
    if not works:
        return []
    try:
        return [_Model([rebuilt(kind, point) for kind, point in works], target)]
    except Exception as e:  # whatever an exporter or a runtime raises
        if len(works) == 1:
            if isinstance(e, _REFUSALS):
                return [None]
            raise
        half = len(works) // 2
        return _prepared(works[:half], target) + _prepared(works[half:], target)


class _Many(nn.Module):
    """Segments side by side, none of which reads what another one makes, and the reference."""

    def __init__(self, modules: Sequence[Rebuilt], dtype: torch.dtype):
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
            # the activation keeps a later addition from being fused into the feeder
            made = [x if f is None else F.relu(F.conv2d(x, self.feeders[f])) for x, f in zip(taken, row)]
            out += module(*made)
        return (*out, *self.reference(*left))


class _Model:
    """Segments in one model, run once when it is made and once at the end."""

    def __init__(self, modules: Sequence[Rebuilt], target: Target):
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
        """Some runs after two that are not counted; returns how many counted."""
        begin = time.perf_counter()
        self._session.run()
        self._session.run()
        each = (time.perf_counter() - begin) / 2
        runs = max(RUNS, min(MOST_RUNS, math.ceil(RUNS_S / max(each, 1e-6))))
        for _ in range(runs):
            self._session.run()
        return runs

    def end(self, clock: Clock) -> list[Timing]:
        """Run once more; the mean of both times."""
        self._runs.append(self._run())
        with self._folder:
            graph, taken = self._session.end()
        each, start = [], 0
        for runs in self._runs:
            start += 2
            told = clock.told(graph, {n: v[start : start + runs] for n, v in taken.items()})
            each.append(told)
            start += runs
        return _attributed(self.modules, self.fed, graph, {n: statistics.fmean(t[n] for t in each) for n in taken})


def _attributed(
    modules: Sequence[Rebuilt], fed: Sequence[Sequence[int | None]], model: Any, seconds: Mapping[str, float]
) -> list[Timing]:
    """Nodes of the optimised graph to segments: everything upstream of a segment's outputs is its own."""
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
    found = []
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
        found.append(Timing(max(total, 1e-7), tuple(given), tuple(left), tuple(convert)))
    return found
