"""ONNX Runtime's profiler as a clock: what it adds to a node is taken off, and so is how slow the machine is just then.

Beside whatever is timed stands work that is always the same (`Reference`). A machine changes its speed from one second
to the next, for other work on it or for a lower clock; times are told as though the reference took what it took when a
table was begun (`Clock.unit`), so that those of different moments, and of different processes, can be compared.

The profiler writes down shapes and sizes within the time it reports: some microseconds a node, as much as a small
operator takes; without it a node costs a little of its own. A row of tiny nodes, run with the profiler and without,
says how much to take off.

Source: profiling, https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
"""

from __future__ import annotations

import io
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.measure.ort_backend import open_session
from sartor.measure.silence_output import quiet, silent_stdout
from sartor.types import Target

REFERENCE = ("reference0", "reference1")  # names of its outputs
_ROWS, _WIDTH = 64, 384  # of its matrix product
_IMAGE, _CHANNELS = 28, (32, 64)  # of its convolution
_NODES, _TINY = 128, 8  # so many in a row, so wide
_TURNS = 100  # runs of them with the profiler, and as many without


class Reference(nn.Module):
    """Work that is always the same: a matrix product, and a convolution in the runtime's own layout."""

    def __init__(self) -> None:
        super().__init__()
        self.product = nn.Linear(_WIDTH, _WIDTH, bias=False)
        self.feeder = nn.Parameter(0.1 * torch.randn(_CHANNELS[0], 1, 1, 1))
        self.convolution = nn.Conv2d(*_CHANNELS, 3, padding=1, bias=False)

    def inputs(self) -> tuple[Tensor, Tensor]:
        return torch.randn(_ROWS, _WIDTH), torch.randn(1, 1, _IMAGE, _IMAGE)

    def forward(self, rows: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.product(rows), self.convolution(F.relu(F.conv2d(image, self.feeder)))


class Clock:
    """Seconds of nodes on one target, told as though the reference took `unit`.

    Args:
        target: on ONNX Runtime.
        unit: seconds; None: what the reference takes when it is first run.
    """

    def __init__(self, target: Target, unit: float | None = None):
        self.target, self.unit = target, unit
        self._added: float | None = None

    def begin(self) -> float:
        """Measure what this needs to know, once; gives the seconds that the profiler adds to a node."""
        if self._added is None:
            self._added = min(self._measured() for _ in range(3))
        return self._added

    def told(self, graph: Any, taken: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Seconds by the name of the node, from those of several runs that followed each other."""
        added = self.begin()
        slow = self._slowed(graph, taken)
        return {n: max(undisturbed(v) / slow - added, 0.0) for n, v in taken.items()}

    def _slowed(self, graph: Any, taken: Mapping[str, Sequence[float]]) -> float:
        nodes = list(graph.graph.node)
        mine = upstream(REFERENCE, nodes, makers(nodes))
        seconds = sum(undisturbed(taken[nodes[n].name]) for n in mine if nodes[n].name in taken)
        self.unit = self.unit or seconds
        return seconds / self.unit if seconds else 1.0

    def _measured(self) -> float:
        """Tiny matrix products in a row: what the profiler says of all, less what the same run takes without it."""
        row = _Row().to(getattr(torch, self.target.dtype)).eval()
        given = [t.to(getattr(torch, self.target.dtype)) for t in row.inputs()]
        names = [f"x{i}" for i in range(len(given))]
        data = exported(row, tuple(given), names, ["y", *REFERENCE])
        feed, alone = dict(zip(names, (t.numpy() for t in given))), []
        with tempfile.TemporaryDirectory() as folder:
            plain, session = open_session(data, self.target), Session(data, feed, self.target, Path(folder))
            for _ in range(_TURNS):
                begin = time.perf_counter()
                plain.run(None, feed)
                alone.append(time.perf_counter() - begin)
                session.run()
            graph, taken = session.end()
        said = [sum(run) for run in zip(*taken.values())]
        return max(undisturbed(said) - undisturbed(alone), 0.0) / len(taken) / self._slowed(graph, taken)


class _Row(nn.Module):
    """Nodes with next to no work, and the reference."""

    def __init__(self) -> None:
        super().__init__()
        self.tiny = nn.Sequential(*(nn.Linear(_TINY, _TINY) for _ in range(_NODES)))
        self.reference = Reference()

    def inputs(self) -> tuple[Tensor, ...]:
        return (torch.randn(1, _TINY), *self.reference.inputs())

    def forward(self, x: Tensor, rows: Tensor, image: Tensor) -> tuple[Tensor, ...]:
        return (self.tiny(x), *self.reference(rows, image))


class Session:
    """A model with the profiler on."""

    def __init__(self, data: bytes, feed: Mapping[str, np.ndarray], target: Target, folder: Path):
        self._where = folder / "optimised.onnx"
        self._session = open_session(data, target, profile=folder / "profile", optimised=self._where)
        self._feed = dict(feed)

    def run(self) -> None:
        """Once more."""
        self._session.run(None, self._feed)

    def end(self) -> tuple[Any, dict[str, list[float]]]:
        """The graph as it was run, and by the name of a node the seconds of every run."""
        import onnx

        taken: dict[str, list[float]] = defaultdict(list)
        for e in json.loads(Path(self._session.end_profiling()).read_text()):
            if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"):
                taken[e["name"].removesuffix("_kernel_time")].append(1e-6 * e["dur"])
        return onnx.load(str(self._where), load_external_data=False), dict(taken)


def exported(module: nn.Module, given: tuple[Tensor, ...], names: list[str], outs: list[str]) -> bytes:
    """ONNX with these names of inputs and outputs."""
    stream = io.BytesIO()
    with torch.no_grad(), quiet(), silent_stdout():
        torch.onnx.export(
            module, given, stream, dynamo=False, input_names=names, output_names=outs  # type: ignore[arg-type]
        )  # fmt: skip
    return stream.getvalue()


def makers(nodes: Sequence[Any]) -> dict[str, int]:
    """Which node makes a value."""
    return {name: n for n, node in enumerate(nodes) for name in node.output if name}


def upstream(outs: Sequence[str], nodes: Sequence[Any], maker: Mapping[str, int]) -> set[int]:
    """The nodes that some outputs come from."""
    mine: set[int] = set()
    stack = [maker[o] for o in outs if o in maker]
    while stack:
        n = stack.pop()
        if n not in mine:
            mine.add(n)
            stack += [maker[name] for name in nodes[n].input if name in maker]
    return mine


def undisturbed(values: Sequence[float]) -> float:
    """Mean of the least sixth, two values at least: other work on the machine only ever adds.

    A kernel of milliseconds is interrupted in most runs where others want the same core; the least are its own time.

    >>> undisturbed([1.0, 2.0, 2.0, 3.0, 90.0])
    1.5
    """
    ordered = sorted(values)
    return statistics.fmean(ordered[: max(2, len(ordered) // 6)])
