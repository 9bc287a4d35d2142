"""`sartor bench verdicts`: whether a fresh process that times the delivered file agrees with the verdict of the run."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import nn

from sartor.budget import parse_budget
from sartor.errors import BudgetNotMet, SartorError
from sartor.measure import Artefact, compare_artefacts
from sartor.recipes import find_recipe
from sartor.run import Options, run
from sartor.run.run_steps import TO_HOLD
from sartor.seed import seeded
from sartor.sources import load_model
from sartor.studies.grid import Grid, Part, machine
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.types import Data, Judge
from sartor.units import parse_shares

NETWORKS: Mapping[str, tuple[str, Mapping[str, Any], int]] = {  # model spec, its options, size of the picture
    "ResNet-18": ("timm:resnet18", {"num_classes": 10}, 64),
    "MobileNetV2 0.35": ("timm:mobilenetv2_035", {"num_classes": 10}, 96),
    "ViT, 4 blocks": (
        "timm:vit_tiny_patch16_224", {"num_classes": 10, "img_size": 64, "patch_size": 8, "depth": 4}, 64,
    ),
    "ConvNeXt-atto": ("timm:convnext_atto", {"num_classes": 10}, 96),
}  # fmt: skip
HEADS = (
    "network", "target", "latency limit", "verdict of the run", "95 % interval", "verdict of a fresh process",
    "95 % interval", "agree",
)  # fmt: skip


@study("verdicts", marker="verdicts", key=("network", "target", "limit", "seed"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class Verdicts(Study):
    """Fit small networks to latency limits, then time the delivered files in a fresh process: do the verdicts agree."""

    limits: Annotated[str, Option("Percent of the original's latency, with commas.")] = "85,70,55"
    targets: Annotated[str, Option("Targets, with semicolons.")] = "onnxruntime-cpu:threads=1;openvino-cpu:threads=1"
    recipe: Annotated[str, Option("Which units go.")] = "l1"

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row for each network, target and limit."""
        torch.set_num_threads(1)
        yield from run.rows_of(
            Case(
                {"network": n, "target": t, "limit": x, "seed": run.seed}, partial(row, n, t, x, self.recipe, run.seed)
            )
            for x in parse_shares(self.limits, "--limits") for n in NETWORKS for t in self.targets.split(";")
        )  # fmt: skip

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """How many agree, and one line a case."""
        rows = [r for r in answer["rows"] if "run" in r]
        agreed = sum(agree(r["run"], r["fresh"]) for r in rows)
        sentence = (
            f"{agreed} of {len(rows)} verdicts agree with a fresh process that times the delivered file in turns with "
            "the original's. *Within noise*: the interval contains the limit; it agrees with either side. "
            f"Machine: {machine(answer['environment'], ('torch', 'onnxruntime', 'openvino'))}."
        )
        return [sentence, Grid(HEADS, [cells(r) for r in answer["rows"]], left=3)]

    def failures(self, answer: Mapping[str, Any]) -> Sequence[str]:
        """The cases that disagree."""
        return [
            f"{r['network']} on {r['target']}, {100 * r['limit']:g} %: the run says {r['run']}, a fresh process "
            f"{r['fresh']}"
            for r in answer["rows"] if "run" in r and not agree(r["run"], r["fresh"])
        ]  # fmt: skip


def row(network: str, target: str, limit: float, recipe: str, seed: int) -> dict[str, Any]:
    """Fit one network, time its file in a fresh process; "why" if the limit cannot be reached."""
    spec, options, size = NETWORKS[network]
    with seeded(seed):
        model: nn.Module = load_model(spec, None, dict(options)).eval()
        example = torch.randn(1, 3, size, size)
    budget = parse_budget(f"latency<={100 * limit:g}% @ {target}")
    with tempfile.TemporaryDirectory(prefix="sartor-") as folder:
        try:
            outcome = run(
                model, Data(), budget, find_recipe(recipe), Judge(), Options(example=example, out=folder, seed=seed)
            )
        except BudgetNotMet as e:
            return {"why": str(e)}
        (timed,) = outcome.record.latency
        original = outcome.delivery.original_on(target).path
        assert original is not None and timed.file is not None
        fresh = in_fresh_process(original, Path(folder) / timed.file, target, limit, size)
    return {
        "run": outcome.record.budget[0].status, "ratio": timed.ratio, "interval": list(timed.interval),
        "sha256": timed.sha256, **fresh,
    }  # fmt: skip


def in_fresh_process(original: Path, fitted: Path, target: str, limit: float, size: int) -> dict[str, Any]:
    """The verdict of a new Python process about two files.

    Raises:
        SartorError: the process failed; the message is its last line.
    """
    request = json.dumps([str(original), str(fitted), target, limit, size])
    command = f"from sartor.studies.verdicts import print_verdict; print_verdict({request!r})"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SartorError(f"verdicts: the fresh process failed: {(done.stderr.splitlines() or ['no message'])[-1]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def print_verdict(request: str) -> None:
    """What the fresh process does."""
    original, fitted, target, limit, size = json.loads(request)
    torch.set_num_threads(1)
    example = torch.randn(1, 3, size, size)
    measured = compare_artefacts(Artefact(original, target), Artefact(fitted, target), example, TO_HOLD)
    print(
        json.dumps(
            {"fresh": measured.against(limit), "fresh_ratio": measured.ratio, "fresh_interval": list(measured.interval)}
        )
    )


def agree(first: str, second: str) -> bool:
    """Whether not one is met and the other missed.

    >>> agree("met", "within noise"), agree("missed", "met"), agree("met", "not measured")
    (True, False, False)
    """
    known = ("met", "within noise", "missed")
    return first in known and second in known and {first, second} != {"met", "missed"}


def cells(r: Row) -> list[str]:
    """One line of the table."""
    start = [r["network"], f"`{r['target']}`", f"{100 * r['limit']:g} %"]
    if "run" not in r:
        return [*start, "not reached", "", "", "", ""]
    low, high = r["interval"]
    fresh_low, fresh_high = r["fresh_interval"]
    return [
        *start, r["run"], f"{100 * low:.1f}–{100 * high:.1f} %", r["fresh"],
        f"{100 * fresh_low:.1f}–{100 * fresh_high:.1f} %", "yes" if agree(r["run"], r["fresh"]) else "**no**",
    ]  # fmt: skip
