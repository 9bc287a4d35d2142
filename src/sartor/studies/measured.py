"""`sartor bench measured`: the table *Measured* of the README, ResNet-56 on CIFAR-10 fitted to budgets."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from sartor.budget import parse_budget
from sartor.measure import environment
from sartor.recipes import RECIPES
from sartor.run import Options
from sartor.run import run as fit
from sartor.studies.grid import Grid, Part
from sartor.studies.networks import CIFAR, RESNET56, RESNET56_WEIGHTS, open_data, open_network
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.train import accuracy
from sartor.types import Data, Judge

ONE_SHOT = (
    *("eagleeye", "flap-fpgm", "flap", "fpgm", "l1", "l2", "taylor"),
    *("activation", "bn-scale", "uniform-l1", "random"),
)
FITS = (  # budget, recipe, epochs
    *((f"macs<={share}%", "reconstruction", 0) for share in (70, 50, 30)),
    *(("macs<=50%", recipe, 0) for recipe in ONE_SHOT),
    ("macs<=50%", "flap-fpgm", 3),
    *((f"latency<={share}% @ onnxruntime-cpu:threads=1", "reconstruction", 0) for share in (80, 60)),
)
HEADS = (
    "budget", "recipe", "epochs", "MACs kept", "parameters kept", "latency (95 % interval), share of the original",
    "top-1 of the original, %", "top-1 of the fitted network, %",
    "max. relative error of the cut against the zero-masked original", "seconds",
)  # fmt: skip
PACKAGES = ("torch", "onnxruntime")  # whose versions stand in the caption


@study("measured", marker="measured", key=("budget", "recipe", "epochs", "seed"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class Measured(Study):
    """Fit ResNet-56 on CIFAR-10 to budgets and judge it on the whole test set: the table of the README."""

    model: Annotated[str, Option("Model spec.")] = RESNET56
    weights: Annotated[str | None, Option("Its weights.")] = RESNET56_WEIGHTS
    data: Annotated[str, Option("Data spec.")] = CIFAR
    runs: Annotated[Path | None, Option("Keep the run folders below this one.")] = None

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row a fit, with the object of `fit --json`."""
        setting = _Setting(self, run.seed)
        yield from run.rows_of(
            Case(
                {"budget": budget, "recipe": recipe, "epochs": epochs, "seed": run.seed},
                partial(setting.fitted, budget, recipe, epochs), f"{budget} {recipe} {epochs}",
            )
            for budget, recipe, epochs in FITS
        )  # fmt: skip

    def answer(self, rows: Sequence[Row], run: StudyRun) -> dict[str, Any]:
        """Rows; the environment is that of the first row."""
        facts = rows[0]["result"].get("environment") if rows else None
        return {"seed": run.seed, "rows": list(rows), "environment": facts or environment()}

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """A caption and one table."""
        return [caption(answer.get("environment") or {}), Grid(HEADS, [cells(row) for row in answer["rows"]])]


@dataclass(frozen=True)
class _Setting:
    """Data and the accuracy of the original, loaded when the first row is made."""

    options: Measured
    seed: int

    @cached_property
    def data(self) -> Any:
        # the published weights were trained on all 50,000 training images, so none of them can validate
        return open_data(self.options.data, 125, self.seed)

    @cached_property
    def original(self) -> float:
        return accuracy(open_network(self.options.model, self.options.weights), self.data.test)

    def fitted(self, budget: str, recipe: str, epochs: int) -> dict[str, Any]:
        """{"result" (the object of `fit --json`), "test": {"original", "final"} in percent, "seconds"}."""
        chosen = RECIPES[recipe].value
        chosen = chosen.with_training(replace(chosen.training, epochs=epochs, channels_last=True))
        name = re.sub(r"[^a-z0-9]+", "-", f"{budget} {recipe} {epochs}")
        folder = self.options.runs / name if self.options.runs else None
        data, original = self.data, self.original
        model = open_network(self.options.model, self.options.weights)
        start = time.perf_counter()
        outcome = fit(
            model, Data(train=data.train, calibration=data.calibration), parse_budget(budget), chosen, Judge(),
            Options(example=data.example, out=folder, seed=self.seed),
        )  # fmt: skip
        seconds = time.perf_counter() - start
        test = {"original": original, "final": accuracy(outcome.model, data.test)}
        return {"result": outcome.record.result(), "test": test, "seconds": seconds}


def cells(row: Row) -> list[str]:
    """The cells of one fit, as many as HEADS."""
    result = row["result"]
    counted, latency = result["counted"], result["latency"]
    timed = ""
    if latency and row["budget"].startswith("latency"):  # other budgets do not limit it
        low, high = latency[0]["interval"]
        timed = f"{100 * latency[0]['ratio']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
    return [
        row["budget"], row["recipe"], str(row["epochs"]),
        *(f"{100 * counted[m]['fitted'] / counted[m]['original']:.1f} %" for m in ("macs", "params")), timed,
        *(f"{row['test'][when]:.2f}" for when in ("original", "final")),
        f"{result['proof']['max_relative_error']:.0e}" if result["proof"]["passed"] else "failed",
        f"{row['seconds']:.0f}",
    ]  # fmt: skip


def caption(facts: Mapping[str, Any]) -> str:
    """The network, the data, and the machine."""
    where = [str(facts[k]) for k in ("cpu", "os") if facts.get(k)]
    if facts.get("cores"):
        where.insert(1, f"{facts['cores']} cores")
    where += [f"{p} {v}" for p, v in facts.get("versions", {}).items() if v and p in PACKAGES]
    return "ResNet-56 of He et al. on CIFAR-10, whole test set, last epoch. " + (
        f"Machine: {', '.join(where)}." if where else ""
    )
