"""`sartor bench fibres`: inner units chosen for all heads or groups together, or for each one, at the same counts.

Only groups with fibres are cut: the width of every head, the channels inside every group of a grouped convolution.
"together" keeps the same units in each head or group, "each" the best of each one by the same criterion; counts, shapes
and MACs are equal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from torch import nn

from sartor.importance import score
from sartor.repair import Original, refit_consumers_
from sartor.run import stages
from sartor.run.context import Context
from sartor.run.per_head_plans import with_fibres
from sartor.run.subject import Subject
from sartor.studies.grid import Grid, Part
from sartor.studies.networks import Network, open_data, read_networks, test_batches, trained
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.train import accuracy
from sartor.types import Criterion, Listener, Plan, Recipe
from sartor.units import parse_shares

FILE = Path("bench/fibres.toml")
STATES = ("cut", "refitted")
WAYS = ("together", "each")
HEADS = (
    "criterion", "inner units kept", "cut, chosen together", "cut, chosen for each", "refitted, chosen together",
    "refitted, chosen for each",
)  # fmt: skip


@study("fibres", marker="fibres", key=("network", "criterion", "share", "seed"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class Fibres(Study):
    """Inner units chosen for all heads or groups together, or for each, at the same counts: accuracy and distance."""

    file: Annotated[Path, Option("Networks.", metavar="FILE.toml", argument=True)] = FILE
    criteria: Annotated[str, Option("Criteria, with commas.")] = "l2,taylor,wanda,flap"
    shares: Annotated[str, Option("Percent of the inner units that stay, with commas.")] = "75,50,25"

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row for each network, criterion and share."""
        _, networks = read_networks(self.file, Network, ("name", "model", "data"), ())
        shares, criteria = parse_shares(self.shares), [c.strip() for c in self.criteria.split(",")]
        yield from run.rows_of(
            Case({"network": n.name, "criterion": c, "share": s, "seed": run.seed}, partial(subject.row, c, s))
            for n in networks for subject in [_Trained(n, run.seed, run.listener)] for c in criteria for s in shares
        )  # fmt: skip

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """What the figures are, and a table for each network."""
        parts: list[Part] = [
            "Accuracy in percent on the test part. In brackets: the squared distance of the outputs from the "
            "original's on held-out inputs, relative to the original's outputs."
        ]
        for name in dict.fromkeys(r["network"] for r in answer["rows"]):
            rows = [r for r in answer["rows"] if r["network"] == name]
            parts.append(f"{name}: {rows[0]['original']:.1f} % of {rows[0]['test_samples']} samples")
            lines = [
                [r["criterion"], f"{100 * r['share']:g} %"]
                + [f"{r[s][w]['accuracy']:.1f} ({r[s][w]['gap']:.3f})" for s in STATES for w in WAYS]
                for r in rows
            ]
            parts.append(Grid(HEADS, lines))
        return parts


@dataclass(frozen=True)
class _Trained:
    """One trained network with its data; both are loaded when the first row is made."""

    network: Network
    seed: int
    listener: Listener

    @cached_property
    def _data(self) -> Any:
        return open_data(self.network.data, self.network.batch, self.seed)

    @cached_property
    def test(self) -> list[Any]:
        return test_batches(self._data, self.network.judge)

    @cached_property
    def subject(self) -> Subject:
        model = trained(self.network, self._data, self.seed, self.listener)
        subject = stages.understand(model, self._data.example)
        return stages.with_held_out(subject, self._data.calibration, self.network.calibration)

    @cached_property
    def original(self) -> float:
        return accuracy(self.subject.model, self.test)

    def row(self, criterion: str, share: float) -> dict[str, Any]:
        """Both ways, cut and refitted."""
        subject, context = self.subject, Context(seed=self.seed)
        graph, model = subject.graph, subject.model
        names = [n for n, over in graph.fibres.items() if over.size > 1 and graph.groups[n].units > 3]
        calibration = subject.calibration(self.network.calibration, context)
        scores = score(graph.only(names), model, criterion, calibration=calibration, listener=context.listener)
        keep = {n: max(1, round(share * graph.groups[n].units)) for n in names}
        together = Plan(
            {n: tuple(sorted(s.argsort(descending=True)[: keep[n]].tolist())) for n, s in scores.items()},
            criterion, graph.fingerprint,
        )  # fmt: skip
        recipe = Recipe(score=Criterion(criterion), calibration=self.network.calibration)
        row: dict[str, Any] = {
            "original": self.original, "test_samples": sum(len(y) for _, y in self.test), "cut": {}, "refitted": {}
        }  # fmt: skip
        for way, plan in zip(WAYS, (together, with_fibres(subject, together, recipe, context))):
            smaller = stages.apply(subject, plan).network
            row["cut"][way] = self._judged(smaller)
            refit_consumers_(smaller, Original(model, graph, plan), subject.inputs)
            row["refitted"][way] = self._judged(smaller)
        return row

    def _judged(self, smaller: nn.Module) -> dict[str, float]:
        return {"accuracy": accuracy(smaller, self.test), "gap": self.subject.gap(smaller)}
