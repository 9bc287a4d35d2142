"""Segments timed by ONNX Runtime's own profiler: many of them in one model, node by node.

A segment alone would begin and end in the common layout and pay for blocking and unblocking its tensors, which inside
a network it mostly does not. So its four-dimensional inputs come from a convolution that gives blocked channels, its
outputs are read as they are, and the nodes between are told apart: what belongs to the segment, what feeds it, and what
changes layouts at its border.

Beside them stands one matrix product that is always the same. What it takes longer than in the calmest model of this
process, everything else is taken to have been slowed by too: other work on the machine, a lower clock.

The profiler writes down shapes and sizes within the time it reports, some microseconds a node, as much as a small
operator takes; without it a node costs a little of its own. A row of tiny nodes, run with the profiler and without,
says how much to take off (`per_node`).

Source: profiling, https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html; the blocked layout is
`NchwcTransformer` of ONNX Runtime.
"""

from __future__ import annotations

import io
import json
import math
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.measure.ort_backend import open_session
from sartor.measure.quiet import quiet, silent_stdout
from sartor.measure.tables.rebuild import CannotRebuild, Rebuilt, rebuilt
from sartor.measure.tables.timing import Timing, Work, chunks
from sartor.types import Target

RUNS = 16  # of a model of many segments, at least
RUNS_S = 0.3  # ... or as long as this
MOST_RUNS = 60
_REFERENCE = (64, 384)  # rows and width of the matrix product that is always the same
_calmest: dict[Target, float] = {}  # seconds of it, the least seen
_NODES, _TINY = 128, 8  # so many in a row, so wide
_TURNS = 100  # runs of them with the profiler, and as many without
_per_node: dict[Target, float] = {}  # seconds the profiler adds to a node
_REORDER = ("ReorderOutput", "ReorderInput")


def profiled(
    works: Sequence[Work], target: Target, *, tell: Callable[[int], None] = lambda done: None
) -> list[Timing | None]:
    """Times from the profiler; see `Timer`."""
    found: list[Timing | None] = []
    for chunk in chunks(works):
        found += _chunk(chunk, target)
        tell(len(found))
    return found


def _chunk(works: Sequence[Work], target: Target) -> list[Timing | None]:
    """All in one model; where that cannot be made, halves of it, down to the one that is to blame."""
    try:
        modules = [rebuilt(kind, point) for kind, point in works]
        return list(_profile(modules, target))
    except Exception as e:  # whatever an exporter or a runtime raises
        if len(works) == 1:
            if isinstance(e, CannotRebuild | RuntimeError | TypeError | ValueError | NotImplementedError | KeyError):
                return [None]
            raise
        half = len(works) // 2
        return _chunk(works[:half], target) + _chunk(works[half:], target)


class _Many(nn.Module):
    """Segments side by side, none of which reads what another one makes."""

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
        self.reference = _reference()
        self.inputs.append(torch.randn(*_REFERENCE).to(dtype))
        self.to(dtype)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        left = list(given)
        out: list[Tensor] = []
        for module, row in zip(self.each, self.fed):
            taken = [left.pop(0) for _ in row]
            # the activation keeps a later addition from being fused into the feeder
            made = [x if f is None else F.relu(F.conv2d(x, self.feeders[f])) for x, f in zip(taken, row)]
            out += module(*made)
        return (*out, self.reference(left.pop(0)))


def _profile(modules: Sequence[Rebuilt], target: Target) -> list[Timing]:
    many = _Many(modules, getattr(torch, target.dtype)).eval().requires_grad_(False)
    names = [f"x{i}" for i in range(len(many.inputs))]
    outs = [f"y{i}_{k}" for i, m in enumerate(modules) for k in range(m.outputs)] + ["reference"]
    data = _exported(many, tuple(many.inputs), names, outs)
    feed = dict(zip(names, (t.numpy() for t in many.inputs)))
    with tempfile.TemporaryDirectory() as folder:
        optimised, events = _run(data, feed, target, Path(folder))
    added = per_node(target)  # first: it also says what calm is
    slowed = _slowed(optimised, events, target)
    return _attributed(modules, many.fed, optimised, {n: max(s / slowed - added, 0.0) for n, s in events.items()})


def _slowed(model: Any, seconds: dict[str, float], target: Target) -> float:
    """How much longer everything took than in the calmest model so far."""
    own = next((n.name for n in model.graph.node if "reference" in n.output), "")
    taken = seconds.get(own, 0.0)
    if not taken:
        return 1.0
    _calmest[target] = min(taken, _calmest.get(target, taken))
    return taken / _calmest[target]


def per_node(target: Target) -> float:
    """Seconds that the profiler adds to what a node takes without it; measured once a process.

    Tiny matrix products in a row: what the profiler says of all of them, less what the same run takes without it.
    """
    if target not in _per_node:
        _per_node[target] = min(_added(target) for _ in range(3))
    return _per_node[target]


def _added(target: Target) -> float:
    dtype = getattr(torch, target.dtype)
    row = _Row().to(dtype).eval()
    feed = {"x": torch.randn(1, _TINY).to(dtype), "r": torch.randn(*_REFERENCE).to(dtype)}
    data = _exported(row, tuple(feed.values()), list(feed), ["y", "reference"])
    given, alone = {n: t.numpy() for n, t in feed.items()}, []
    with tempfile.TemporaryDirectory() as folder:
        plain, told = open_session(data, target), _Told(data, target, Path(folder))
        for _ in range(_TURNS):
            begin = time.perf_counter()
            plain.run(None, given)
            alone.append(time.perf_counter() - begin)
            told.session.run(None, given)
        optimised, events = told.end()
    said = [sum(run) for run in zip(*events.values())]
    added = max(undisturbed(said) - undisturbed(alone), 0.0) / len(events)
    return added / _slowed(optimised, {n: undisturbed(v) for n, v in events.items()}, target)


class _Row(nn.Module):
    """Nodes with next to no work, and beside them the matrix product that is always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.tiny = nn.Sequential(*(nn.Linear(_TINY, _TINY) for _ in range(_NODES)))
        self.reference = _reference()

    def forward(self, x: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
        return self.tiny(x), self.reference(r)


def _reference() -> nn.Linear:
    return nn.Linear(_REFERENCE[1], _REFERENCE[1], bias=False)


def _exported(module: nn.Module, given: tuple[Tensor, ...], names: list[str], outs: list[str]) -> bytes:
    stream = io.BytesIO()
    with torch.no_grad(), quiet(), silent_stdout():
        torch.onnx.export(
            module, given, stream, dynamo=False, input_names=names, output_names=outs  # type: ignore[arg-type]
        )  # fmt: skip
    return stream.getvalue()


class _Told:
    """A session with the profiler on."""

    def __init__(self, data: bytes, target: Target, folder: Path):
        self._where = folder / "optimised.onnx"
        self.session = open_session(data, target, profile=folder / "profile", optimised=self._where)

    def end(self) -> tuple[Any, dict[str, list[float]]]:
        """The graph as it was run, and by the name of a node the seconds of every run."""
        import onnx

        taken: dict[str, list[float]] = defaultdict(list)
        for e in json.loads(Path(self.session.end_profiling()).read_text()):
            if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"):
                taken[e["name"].removesuffix("_kernel_time")].append(1e-6 * e["dur"])
        return onnx.load(str(self._where), load_external_data=False), taken


def _run(data: bytes, feed: dict[str, np.ndarray], target: Target, folder: Path) -> tuple[Any, dict[str, float]]:
    """The optimised graph, and seconds by the name of its nodes: undisturbed ones of all runs but the first two."""
    told = _Told(data, target, folder)
    begin = time.perf_counter()
    told.session.run(None, feed)
    told.session.run(None, feed)
    each = (time.perf_counter() - begin) / 2
    for _ in range(max(RUNS, min(MOST_RUNS, math.ceil(RUNS_S / max(each, 1e-6))))):
        told.session.run(None, feed)
    optimised, taken = told.end()
    return optimised, {n: undisturbed(v[2:]) for n, v in taken.items()}


def undisturbed(values: Sequence[float]) -> float:
    """Mean of the least sixth, two values at least: other work on the machine only ever adds.

    A kernel of milliseconds is interrupted in most runs where others want the same core; the least are its own time.

    >>> undisturbed([1.0, 2.0, 2.0, 3.0, 90.0])
    1.5
    """
    ordered = sorted(values)
    return statistics.fmean(ordered[: max(2, len(ordered) // 6)])


def _attributed(
    modules: Sequence[Rebuilt], fed: Sequence[Sequence[int | None]], model: Any, seconds: dict[str, float]
) -> list[Timing]:
    """Nodes of the optimised graph to segments: everything upstream of a segment's outputs is its own."""
    nodes = list(model.graph.node)
    maker = {name: n for n, node in enumerate(nodes) for name in node.output if name}
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
        mine = _upstream(outs, nodes, maker)
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


def _upstream(outs: Sequence[str], nodes: Sequence[Any], maker: dict[str, int]) -> set[int]:
    mine: set[int] = set()
    stack = [maker[o] for o in outs if o in maker]
    while stack:
        n = stack.pop()
        if n not in mine:
            mine.add(n)
            stack += [maker[name] for name in nodes[n].input if name in maker]
    return mine
