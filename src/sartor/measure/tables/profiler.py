"""ONNX Runtime's profiler as a clock: its overhead is subtracted, and times are normalised for the machine's speed.

The speed of a machine changes from one second to the next, by other work or a lower clock rate. So a reference kernel
(`Reference`) is measured beside whatever is timed, and times are divided by how much slower the reference is than when
the table was begun (`Clock.unit`). Times of different moments and processes can then be compared.

The profiler records shapes and sizes within the time that it reports: some microseconds a node, as much as a small
operator takes. A row of tiny nodes, run with and without the profiler, gives the overhead per node.

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
_NODES, _TINY = 128, 8  # number and width of the tiny nodes
_TURNS = 100  # runs of the tiny nodes with the profiler, and as many without


class Reference(nn.Module):
    """The reference kernel: a matrix product, and a convolution in the runtime's own layout."""

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
    """Seconds of nodes on one target, normalised so that the reference kernel takes `unit`.

    Args:
        target: one that ONNX Runtime runs on.
        unit: seconds; None: those of the reference in the first run.
    """

    def __init__(self, target: Target, unit: float | None = None):
        self.target, self.unit = target, unit
        self._overhead: float | None = None

    def begin(self) -> float:
        """Seconds that the profiler adds to a node; measured at the first call."""
        if self._overhead is None:
            self._overhead = min(self._measured_overhead() for _ in range(3))
        return self._overhead

    def normalised(self, graph: Any, taken: Mapping[str, Sequence[float]]) -> dict[str, float]:
        """Seconds by the name of the node, from the seconds of each in consecutive runs."""
        overhead = self.begin()
        slowdown = self._slowdown(graph, taken)
        return {n: max(undisturbed(v) / slowdown - overhead, 0.0) for n, v in taken.items()}

    def _slowdown(self, graph: Any, taken: Mapping[str, Sequence[float]]) -> float:
        """How many times as long as `unit` the reference took."""
        nodes = list(graph.graph.node)
        mine = upstream(REFERENCE, nodes, makers(nodes))
        seconds = sum(undisturbed(taken[nodes[n].name]) for n in mine if nodes[n].name in taken)
        self.unit = self.unit or seconds
        return seconds / self.unit if seconds else 1.0

    def _measured_overhead(self) -> float:
        """Per node of a row of tiny matrix products: their profiled time minus the time of a run without profiler."""
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
        profiled = [sum(run) for run in zip(*taken.values())]
        return max(undisturbed(profiled) - undisturbed(alone), 0.0) / len(taken) / self._slowdown(graph, taken)


class _Row(nn.Module):
    """Tiny nodes in a row, and the reference."""

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
        """One more run."""
        self._session.run(None, self._feed)

    def end(self) -> tuple[Any, dict[str, list[float]]]:
        """The optimised graph, and the seconds of every run by the name of the node."""
        import onnx

        taken: dict[str, list[float]] = defaultdict(list)
        for e in json.loads(Path(self._session.end_profiling()).read_text()):
            if e.get("cat") == "Node" and e["name"].endswith("_kernel_time"):
                taken[e["name"].removesuffix("_kernel_time")].append(1e-6 * e["dur"])
        return onnx.load(str(self._where), load_external_data=False), dict(taken)


def exported(module: nn.Module, given: tuple[Tensor, ...], names: list[str], outs: list[str]) -> bytes:
    """The module as ONNX with the given names of inputs and outputs."""
    stream = io.BytesIO()
    with torch.no_grad(), quiet(), silent_stdout():
        torch.onnx.export(
            module, given, stream, dynamo=False, input_names=names, output_names=outs  # type: ignore[arg-type]
        )  # fmt: skip
    return stream.getvalue()


def makers(nodes: Sequence[Any]) -> dict[str, int]:
    """Index of the node that makes each value."""
    return {name: n for n, node in enumerate(nodes) for name in node.output if name}


def upstream(outs: Sequence[str], nodes: Sequence[Any], maker: Mapping[str, int]) -> set[int]:
    """Indices of the nodes that some outputs depend on."""
    mine: set[int] = set()
    stack = [maker[o] for o in outs if o in maker]
    while stack:
        n = stack.pop()
        if n not in mine:
            mine.add(n)
            stack += [maker[name] for name in nodes[n].input if name in maker]
    return mine


def undisturbed(values: Sequence[float]) -> float:
    """Mean of the smallest sixth of the values, at least two: other work on the machine only adds time.

    On a busy core, most runs of a kernel that takes milliseconds are interrupted; the smallest values are its own time.

    >>> undisturbed([1.0, 2.0, 2.0, 3.0, 90.0])
    1.5
    """
    ordered = sorted(values)
    return statistics.fmean(ordered[: max(2, len(ordered) // 6)])
