"""`sartor bench autobot`: gates trained on a frozen CIFAR ResNet, accuracy against the number of batches.

Reference: AutoBot (Castells and Yeom 2023, arXiv:2111.09635), whose code reports 85.6 % for ResNet-56 at 44 % of the
MACs after 200 batches of 64, and by the number of batches 33 (5), 66 (10), 76 (30), 82 (100), 84.5 (200). There every
branch output has gates of its own and the residual stream keeps its width. Here branches that are added share the
channels of the stream: `--groups inner` leaves the streams whole, `--groups all` puts gates on them too.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Annotated, Any

import torch

from sartor.cost import macs, params
from sartor.errors import UnknownName
from sartor.learn import Gated
from sartor.recipes import RECIPES
from sartor.run import stages
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.structure.example import first_tensor
from sartor.studies.grid import Grid, Part
from sartor.studies.networks import CIFAR, RESNET56, RESNET56_WEIGHTS, open_data, open_network, test_batches
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.surgery import cut
from sartor.train import accuracy
from sartor.train.batch import first_samples
from sartor.types import Axes, Budget, Criterion, Gates, Limit, Plan, Recipe, Sensitivity

CHOICES = {
    "method": ("gates", "sensitivity", "l1"), "task": ("labels", "distill", "gap"), "groups": ("inner", "all"),
}  # fmt: skip
HEADS = (
    "scores", "batches", "MACs kept", "MACs kept, relative to the limit", "top-1 without training, %",
    "top-1 with gates of 0 and 1, %", "seconds",
)  # fmt: skip


@study(
    "autobot", marker="autobot", key=("model", "method", "task", "groups", "asked", "batches", "seed"),
    source="Castells and Yeom 2023, arXiv:2111.09635",
)  # fmt: skip
@dataclass(frozen=True, kw_only=True)
class AutoBot(Study):
    """Gates trained on the frozen network: accuracy before fine-tuning against the number of batches."""

    share: Annotated[float, Option("Share of the MACs, in (0, 1).")] = 0.44
    batches: Annotated[str, Option("Numbers of batches, with commas.")] = "200"
    batch: Annotated[int, Option("Images of a batch.", minimum=1)] = 64
    method: Annotated[str, Option(f"Of {', '.join(CHOICES['method'])}.")] = "gates"
    task: Annotated[str, Option(f"Loss of the gates: {', '.join(CHOICES['task'])}.")] = "labels"
    groups: Annotated[str, Option("Inner channels of the blocks (inner), or those of the streams too (all).")] = "inner"
    lr: Annotated[float, Option("Learning rate of the gates.")] = Gates().lr
    beta: Annotated[float, Option("Weight of the distance from the limit.")] = Gates().beta
    gamma: Annotated[float, Option("Weight of the distance of the gates from 0 and 1.")] = Gates().gamma
    test: Annotated[int, Option("Test images.", minimum=1)] = 10_000
    model: Annotated[str, Option("Model spec.")] = RESNET56
    weights: Annotated[str | None, Option("Its weights.")] = RESNET56_WEIGHTS
    data: Annotated[str, Option("Data spec.")] = CIFAR

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row for each number of batches."""
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UnknownName(name, getattr(self, name), known)
        numbers = [int(n) for n in self.batches.split(",")]
        setting = _Setting(self, max(numbers), run.context)
        yield from run.rows_of(
            Case(
                {"model": self.model, "method": self.method, "task": self.task, "groups": self.groups,
                 "asked": self.share, "batches": n, "seed": run.seed},
                partial(setting.row, n),
            )
            for n in numbers
        )  # fmt: skip

    def recipe(self, batches: int) -> Recipe:
        """The recipe `autobot` with the score of `--method` and the options of this study."""
        scores: dict[str, Any] = {
            "gates": Gates(
                steps=batches, batch=self.batch, lr=self.lr, beta=self.beta, gamma=self.gamma,
                task=self.task,  # type: ignore[arg-type]
            ),
            "sensitivity": Sensitivity("l1", normalise="mean", per_cost=1.0),
            "l1": Criterion("l1", normalise="mean"),
        }  # fmt: skip
        return replace(
            RECIPES["autobot"].value, score=scores[self.method], cut=Axes(streams=self.groups == "all"),
            calibration=batches * self.batch,
        )  # fmt: skip

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """One table."""
        lines = [
            [
                r["method"], str(r["batches"]), f"{100 * r['share']:.3f} %", f"{100 * r['off_target']:+.3f} %",
                f"{r['accuracy']:.2f}", f"{r['pseudo']:.2f}", f"{r['seconds']:.0f}",
            ]
            for r in answer["rows"]
        ]  # fmt: skip
        return [Grid(HEADS, lines)]


@dataclass(frozen=True)
class _Setting:
    """The network with its calibration batches, and the test images."""

    options: AutoBot
    most: int  # batches
    context: Context

    @cached_property
    def subject(self) -> Subject:
        options = self.options
        with seeded(self.context.seed):
            data = open_data(options.data, options.batch, self.context.seed)
            batches = list(first_samples(data.calibration or (), self.most * options.batch))
        subject = stages.understand(open_network(options.model, options.weights), data.example)
        return replace(subject, samples=tuple(batches))

    @cached_property
    def test(self) -> list[Any]:
        return test_batches(open_data(self.options.data, 500), self.options.test)

    def row(self, batches: int) -> dict[str, Any]:
        """Score, cut at one threshold under the limit, judge."""
        recipe = self.options.recipe(batches)
        whole = replace(self.subject, samples=self.subject.samples[:batches])
        subject = whole.allowed(recipe)
        bounds = Budget((Limit("macs", self.options.share, True),)).against(subject.original)
        start = time.perf_counter()
        scores = stages.score(subject, recipe, bounds, self.context)
        plan = stages.decide(subject, recipe, scores, bounds, self.context).plan
        seconds = time.perf_counter() - start
        graph, counts = subject.graph, plan.counts()
        left, share = macs(graph, counts), macs(graph, counts) / macs(graph)
        return {
            "macs": left, "macs_thop": macs(graph, counts, convention="thop"), "share": share,
            "off_target": share / self.options.share - 1, "params": params(graph, counts),
            "accuracy": accuracy(cut(subject.model, graph, plan), self.test),
            "pseudo": gated_accuracy(Gated(graph, subject.model), plan, self.test), "seconds": seconds, "kept": counts,
        }  # fmt: skip


def gated_accuracy(gated: Gated, plan: Plan, test: Iterable[Any]) -> float:
    """Accuracy in percent of the uncut network with gates of 0 and 1."""
    gates = {}
    for n, kept in plan.keep.items():
        gates[n] = torch.zeros(gated.units[n])
        gates[n][list(kept)] = 1.0
    right = total = 0
    with torch.no_grad():
        for images, labels in test:
            right += int((first_tensor(gated(images, gates)).argmax(1) == labels).sum())
            total += len(labels)
    return 100.0 * right / total
