"""`sartor bench predictor`: latency predicted from tables against latency measured on random plans."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import nn

from sartor.allocate import Cap
from sartor.cost import macs
from sartor.measure import compare, parse_target, prepare
from sartor.measure.tables import Store, Table, random_plans
from sartor.run import stages
from sartor.run.table_latency import predictor_for, uncorrected_predictor
from sartor.structure import Graph, trace
from sartor.studies.grid import Grid, Part, machine
from sartor.studies.networks import RESNET56, open_network
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.surgery import cut, probe
from sartor.types import Counts, Effort, Knapsack, Plan, Recipe, Target

EFFORT = Effort(samples=10, min_seconds=0.3, max_seconds=1.5, precision=0.02)
SEED = 77  # of the plans that are predicted; the correction is fitted to those of seed 0
NETWORKS = {"resnet18": "torchvision:resnet18", "resnet56": RESNET56}  # short names
DEFAULT = ("resnet56", "resnet18", "timm:mobilenetv2_100", "timm:vit_tiny_patch16_224", "timm:convnext_atto")
HEADS = (
    "network", "target", "operators timed", "seconds to time them", "seconds to plan from the tables",
    "networks predicted", "median error", "90th percentile of the error", "rank correlation",
    "median error of the sum without correction", "median error if MACs stand for latency",
)  # fmt: skip


@study("predictor", marker="predictor", key=("network", "target", "plans"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class PredictorStudy(Study):
    """How well latency read from tables predicts networks that were not used to fit the prediction.

    Shares of the original's latency are compared. Cut network and original are timed in turns on the CPU time of the
    thread (`time.thread_time`, which does not advance while another process runs), so the target must have one thread.
    """

    networks: Annotated[
        list[str] | None, Option(f"Of {', '.join(NETWORKS)}, or model specs.", metavar="NETWORK...", argument=True)
    ] = None
    target: Annotated[str, Option("With one thread.")] = "onnxruntime-cpu:threads=1"
    plans: Annotated[int, Option("Networks that are predicted.", minimum=2)] = 30
    file: Annotated[Path | None, Option("The tables; none: the default file.")] = None

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row a network."""
        torch.set_num_threads(1)
        return run.rows_of(
            Case({"network": n, "target": self.target, "plans": self.plans}, partial(self._row, n))
            for n in self.networks or DEFAULT
        )

    def _row(self, name: str) -> dict[str, Any]:
        size = 32 if name == "resnet56" else 224
        model = open_network(NETWORKS.get(name, name))
        return predicted(model, torch.zeros(1, 3, size, size), parse_target(self.target), self.plans, self.file)

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """The machine and one table."""
        lines = []
        for row in answer["rows"]:
            p = row["predicted"]
            lines.append([
                row["network"], row["target"], str(row["timings"]), f"{row['gather_s']:.0f}", f"{row['plan_s']:.1f}",
                str(row["plans"]), _percent(p["median_error"]), _percent(p["p90_error"]),
                f"{p['rank_correlation']:.3f}", _percent(row["sum"]["median_error"]),
                _percent(row["macs"]["median_error"]),
            ])  # fmt: skip
        return [f"Machine: {machine(answer['environment'], ('torch', 'onnxruntime'))}.", Grid(HEADS, lines)]


def predicted(model: nn.Module, example: torch.Tensor, target: Target, plans: int, file: Path | None) -> dict[str, Any]:
    """How far predictions are from measurements on random plans, and how long the tables take."""
    graph = probe(model, trace(model, example))

    def ratio(counts: Counts) -> float:
        keep = {n: tuple(range(k)) for n, k in counts.items()}
        smaller = cut(model, graph, Plan(keep, "random", graph.fingerprint))
        with prepare(model, example, target) as a, prepare(smaller, example, target) as b:
            return compare(a, b, EFFORT, clock=time.thread_time).ratio

    store = Store(file)
    before, start = sum(r["timings"] for r in store.wheres()), time.perf_counter()
    uncorrected_predictor(model, example, Table(target, store=store))
    gather_s, timings = time.perf_counter() - start, sum(r["timings"] for r in store.wheres()) - before
    predictor = predictor_for(model, graph, example, Table(target, store=store), ratio=ratio)
    row: dict[str, Any] = {
        "timings": timings, "gather_s": gather_s, "plan_s": _second_plan(model, example, target, file),
        "held_out_by_correction": predictor.correction.error,
    }  # fmt: skip
    counts = random_plans(graph, plans, seed=SEED)
    measured = [ratio(c) for c in counts]
    original = predictor.features({})[:2].sum()
    row["predicted"] = _errors([predictor.ratio(c) for c in counts], measured)
    row["sum"] = _errors([predictor.features(c)[:2].sum() / original for c in counts], measured)
    row["macs"] = _errors([macs(graph, c) / macs(graph) for c in counts], measured)
    return row


def _errors(predicted: Sequence[float], measured: Sequence[float]) -> dict[str, float]:
    from scipy.stats import spearmanr

    errors = [abs(p / m - 1) for p, m in zip(predicted, measured)]
    return {
        "median_error": statistics.median(errors),
        "p90_error": float(np.quantile(errors, 0.9)),
        "rank_correlation": float(spearmanr(measured, predicted)[0]),
    }


def _second_plan(model: nn.Module, example: torch.Tensor, target: Target, file: Path | None) -> float:
    """Seconds of a second run: trace, read the tables, and plan for 60 % of the latency; nothing is timed."""

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a second run timed an operator")

    start = time.perf_counter()
    graph: Graph = probe(model, trace(model, example))
    predictor = predictor_for(model, graph, example, Table(target, store=Store(file), timer=never), ratio=never)
    scores = {n: torch.rand(g.units, generator=torch.Generator().manual_seed(0)) for n, g in graph.groups.items()}
    cap = Cap(predictor.cost(), 0.6 * predictor.original, "latency")
    stages.allocate(graph, scores, Recipe(allocate=Knapsack()), [cap])
    return time.perf_counter() - start


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
