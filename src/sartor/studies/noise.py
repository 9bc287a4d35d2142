"""`sartor bench noise`: how close a measured ratio of latencies comes to the true one beside a competing process."""

from __future__ import annotations

import math
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Annotated, Any

import torch

from sartor.measure import compare, prepare
from sartor.studies.grid import Grid, Part
from sartor.studies.networks import open_network
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.testing.neighbour import Neighbour
from sartor.types import Comparison, Effort

TRUTH = 0.6
EFFORT = Effort(samples=40, min_seconds=0.5, max_seconds=1.5, precision=0.01)
SPELLS = {  # mean seconds that the competing process runs and sleeps
    "none": (0.0, 1.0), "20 ms in 220": (0.02, 0.2), "20 ms in 40": (0.02, 0.02), "0.3 s in 1.3": (0.3, 1.0),
    "0.5 s in 1": (0.5, 0.5), "always": (math.inf, 1.0),
}  # fmt: skip
PROGRAMS = {
    "none": None,
    "bursts": (
        "import time\nwhile True:\n e=time.perf_counter()+.02\n while time.perf_counter()<e: pass\n time.sleep(.05)"
    ),
    "always": "while True: pass",
}
Estimator = Callable[[Sequence[float], Sequence[float]], float]


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value with at least this share of the values below it."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def least(values: Sequence[float]) -> float:
    """Mean of the smallest sixth."""
    return statistics.fmean(sorted(values)[: max(2, len(values) // 6)])


ESTIMATORS: dict[str, Estimator] = {
    "median of pairwise ratios": lambda a, b: statistics.median(y / x for x, y in zip(a, b)),
    "ratio of medians": lambda a, b: statistics.median(b) / statistics.median(a),
    "ratio of lower quartiles": lambda a, b: quantile(b, 0.25) / quantile(a, 0.25),
    "ratio of the smallest sixths": lambda a, b: least(b) / least(a),
    "ratio of means": lambda a, b: sum(b) / sum(a),
}
HEADS = (
    "competing process", "latency", "clock", *ESTIMATORS, "`Comparison.ratio`", "trials called noisy",
    "95 % interval contains the true ratio", "half width of the interval, %",
)  # fmt: skip


@study("noise", marker="noise", key=("process", "latency", "clock", "trials"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class Noise(Study):
    """Errors of several estimators of a latency ratio beside a simulated or a real competing process."""

    trials: Annotated[int, Option("Comparisons a row.", minimum=1)] = 40
    real: Annotated[bool, Option("A real process on this core, instead of a simulated one.", name="--real")] = False
    target: Annotated[str, Option("Of --real.")] = "onnxruntime-cpu:threads=1"

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row for each competing process, latency and clock."""
        return run.rows_of(self._real_cases() if self.real else self._simulated_cases())

    def _simulated_cases(self) -> Iterator[Case]:
        for clock in ("wall time", "wall time and CPU time"):
            for seconds in (0.001, 0.008, 0.1):
                for name, spell in SPELLS.items():
                    about = {"process": name, "latency": f"{1e3 * seconds:g} ms", "clock": clock, "trials": self.trials}
                    yield Case(about, partial(self._simulated, seconds, spell, clock != "wall time"))

    def _simulated(self, seconds: float, spell: tuple[float, float], own: bool) -> dict[str, Any]:
        comparisons = []
        for seed in range(self.trials):
            core = Neighbour(*spell, seed=seed)
            pair = (core.runnable(seconds, own=own), core.runnable(TRUTH * seconds, own=own))
            comparisons.append(compare(*pair, EFFORT, clock=core.clock, running=core.running))
        return errors(comparisons, TRUTH)

    def _real_cases(self) -> Iterator[Case]:
        truth = cache(lambda: statistics.median(c.ratio for c in self._beside(PROGRAMS["none"])))
        for name, program in PROGRAMS.items():
            about = {"process": f"{name}, real", "latency": "ResNet-18", "clock": self.target, "trials": self.trials}
            yield Case(about, partial(self._real, program, truth))

    def _real(self, program: str | None, truth: Callable[[], float]) -> dict[str, Any]:
        return errors(self._beside(program), truth())

    def _beside(self, program: str | None) -> list[Comparison]:
        """Comparisons of part of ResNet-18 with all of it, on one core that a program may keep busy."""
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        torch.manual_seed(0)
        original = open_network("torchvision:resnet18")
        part = torch.nn.Sequential(*list(original.children())[:7])
        example = torch.randn(1, 3, 112, 112)
        process = subprocess.Popen([sys.executable, "-c", program]) if program else None
        try:
            with prepare(original, example, self.target) as a, prepare(part, example, self.target) as b:
                return [compare(a, b, EFFORT) for _ in range(self.trials)]
        finally:
            if process:
                process.kill()

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """What the figures are, and one table."""
        lines = []
        for row in answer["rows"]:
            figures = [f"{100 * e['median']:+.1f} ({100 * e['p90']:.1f})" for e in row["errors"].values()]
            lines.append([
                row["process"], row["latency"], row["clock"], *figures, f"{row['noisy']:.0%}",
                f"{row['contained']:.0%}", f"{100 * row['half_width']:.1f}",
            ])  # fmt: skip
        return [
            "Errors in percent of the true ratio: the median, and in brackets the 90th percentile of their magnitude.",
            Grid(HEADS, lines, left=3),
        ]


def errors(comparisons: Sequence[Comparison], truth: float) -> dict[str, Any]:
    """Errors of every estimator on wall time, then of `Comparison.ratio`; how often the interval contains the truth."""
    by_name = {
        name: [estimate(c.original.seconds, c.fitted.seconds) / truth - 1 for c in comparisons]
        for name, estimate in ESTIMATORS.items()
    }
    by_name["ratio"] = [c.ratio / truth - 1 for c in comparisons]
    n = len(comparisons)
    return {
        "truth": truth,
        "errors": {
            name: {"median": statistics.median(e), "p90": quantile([abs(x) for x in e], 0.9)}
            for name, e in by_name.items()
        },
        "noisy": sum(bool(c.noisy) for c in comparisons) / n,
        "contained": sum(c.interval[0] <= truth <= c.interval[1] for c in comparisons) / n,
        "half_width": statistics.median((c.interval[1] - c.interval[0]) / 2 / c.ratio for c in comparisons),
    }  # fmt: skip
