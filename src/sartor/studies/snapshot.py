"""`sartor bench snapshot`: plans and weights of many recipes, compared bit for bit between two versions of Sartor.

A change of structure must not change results. Save with the old version, compare with the new one:

    SARTOR_DATA=... sartor bench snapshot save /tmp/before
    SARTOR_DATA=... sartor bench snapshot compare /tmp/before

Five recipes on ResNet-20 (published CIFAR-10 weights) and on a small vision transformer, and every recipe on a small
residual network. Use the same machine, the same version of torch and one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sartor.budget import parse_budget
from sartor.errors import BadInput
from sartor.recipes import RECIPES
from sartor.recipes.registry import one_shot_recipes
from sartor.run import Options
from sartor.run import run as fit
from sartor.seed import seeded
from sartor.sources import load_data
from sartor.studies.grid import Grid, Part
from sartor.studies.networks import expanded, open_network
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.types import Data, Judge

ACTS = ("save", "compare")
FIVE = ("l1", "taylor", "reconstruction", "chip", "autobot")
BUDGET = "macs<=50%"
SAMPLES = 1024  # calibration images
FEW = 256  # calibration images of the networks on which every recipe runs
BATCH = 128
TRANSFORMER = {"img_size": 32, "patch_size": 4, "depth": 4, "num_classes": 10}


@study("snapshot", marker="snapshot", key=("case", "act", "folder"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class Snapshot(Study):
    """Save plans and weights of many recipes, or compare them bit for bit with saved ones; exit code 1: they differ."""

    act: Annotated[str, Option("save or compare.", metavar="ACT", argument=True)]
    folder: Annotated[Path, Option("Of the saved plans and weights.", metavar="FOLDER", argument=True)]
    model: Annotated[str, Option("Model spec.")] = "bench/cifar_resnet.py:resnet20"
    weights: Annotated[str | None, Option("Its weights.")] = "$SARTOR_DATA/weights/resnet20-cifar10.safetensors"
    data: Annotated[str, Option("Data spec.")] = "cifar10:$SARTOR_DATA"

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row for each network and recipe."""
        if self.act not in ACTS:
            raise BadInput(f"snapshot: expected save or compare; got {self.act!r}")
        torch.set_num_threads(1)
        self.folder.mkdir(parents=True, exist_ok=True)
        act = self._save if self.act == "save" else self._compare
        yield from run.rows_of(
            Case({"case": name, "act": self.act, "folder": str(self.folder)}, partial(act, name, make), name)
            for name, make in self._cases()
        )

    def _cases(self) -> Iterator[tuple[str, Callable[[], tuple[str, dict[str, Tensor]]]]]:
        for recipe in FIVE:
            yield f"resnet20-{recipe}", partial(self._fitted, self._published, recipe, SAMPLES)
            yield f"vit-{recipe}", partial(self._fitted, _transformer, recipe, SAMPLES)
        for recipe in one_shot_recipes():
            yield f"random-{recipe}", partial(self._fitted, self._random, recipe, FEW)

    def _published(self) -> nn.Module:
        return open_network(self.model, self.weights)

    def _random(self) -> nn.Module:
        """The same network with seeded random weights, in training mode as a new module is."""
        with seeded(0):
            return open_network(self.model).train()

    def _fitted(self, network: Callable[[], nn.Module], recipe: str, images: int) -> tuple[str, dict[str, Tensor]]:
        """The plan as text, without the name of its maker, and the final weights."""
        data = load_data(expanded(self.data), batch=BATCH, seed=0)
        batches: list[Any] = []
        for batch in data.calibration or data.train or ():
            batches.append(batch)
            if len(batches) * BATCH >= images:
                break
        outcome = fit(
            network(), Data(calibration=batches), parse_budget(BUDGET), RECIPES[recipe].value, Judge(), Options(seed=0)
        )
        plan = repr(sorted(outcome.plan.keep.items())) + repr(sorted(outcome.plan.fibres.items()))
        return plan, {k: v.contiguous() for k, v in outcome.model.state_dict().items()}

    def _files(self, name: str) -> tuple[Path, Path]:
        return self.folder / f"{name}.plan", self.folder / f"{name}.safetensors"

    def _save(self, name: str, make: Callable[[], tuple[str, dict[str, Tensor]]]) -> dict[str, Any]:
        plan_file, weights_file = self._files(name)
        if not weights_file.is_file():
            plan, weights = make()
            plan_file.write_text(plan)
            save_file(weights, weights_file)
        return {"plan": "saved", "weights": "saved"}

    def _compare(self, name: str, make: Callable[[], tuple[str, dict[str, Tensor]]]) -> dict[str, Any]:
        plan_file, weights_file = self._files(name)
        if not weights_file.is_file():
            return {"plan": "not saved", "weights": "not saved"}
        plan, weights = make()
        before = load_file(weights_file)
        same = before.keys() == weights.keys() and all(torch.equal(before[k], weights[k]) for k in before)
        same_plan = plan == plan_file.read_text()
        return {"plan": "equal" if same_plan else "DIFFERENT", "weights": "equal" if same else "DIFFERENT"}

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """One table."""
        return [Grid(("network and recipe", "plan", "weights"), [[r[k] for k in ("case", "plan", "weights")]
                for r in answer["rows"]])]  # fmt: skip

    def failures(self, answer: Mapping[str, Any]) -> list[str]:
        """Cases that differ, or that were not saved."""
        fine = ("equal", "saved")
        return [
            f"{r['case']}: plan {r['plan']}, weights {r['weights']}"
            for r in answer["rows"] if r["plan"] not in fine or r["weights"] not in fine
        ]  # fmt: skip


def _transformer() -> nn.Module:
    """Four blocks of ViT-tiny on 32-pixel images, with seeded random weights."""
    with seeded(0):
        return open_network("timm:vit_tiny_patch16_224", options=TRANSFORMER).train()
