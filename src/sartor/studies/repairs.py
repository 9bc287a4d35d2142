"""`sartor bench repairs`: one cut of each network, repaired in several ways, at several shares of the MACs.

All rows of a network, a share and a seed repair the same cut on the same calibration samples. No labels are read and
nothing is judged on the test part before the last figure.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

import torch

from sartor.borrow import device_of
from sartor.cost import count
from sartor.errors import UnknownName
from sartor.recipes import changed, find_recipe
from sartor.repair.gap import output_gap
from sartor.run import stages
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.studies.grid import Grid, Part, bullets
from sartor.studies.networks import Network, open_data, read_networks, test_batches, trained
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.score_recipes import plan_at, score_recipes
from sartor.studies.study_run import Case, StudyRun
from sartor.train import accuracy
from sartor.types import Distil, FoldMeans, Listener, Plan, Recipe, RefreshNorms, Ridge, Scores
from sartor.units import parse_shares

FILE = Path("bench/repairs.toml")
_REFIT = (Ridge(), FoldMeans(), RefreshNorms())
REPAIRS: dict[str, tuple[Any, ...]] = {
    "cut only": (),
    "batch norms re-estimated": (RefreshNorms(),),
    "folding": (Ridge(variant="folding"), RefreshNorms()),
    "GRAIL": (Ridge(variant="grail"), RefreshNorms()),
    "refit without logits": (Ridge(logits=False), FoldMeans(), RefreshNorms()),
    "refit": _REFIT,
    "refit, distilled": (*_REFIT, Distil()),
}


@dataclass(frozen=True, kw_only=True)
class RepairedNetwork(Network):
    """A [[network]] of the file."""

    recipe: str = "reconstruction"  # decides what is cut
    changes: dict[str, Any] = field(default_factory=dict)  # fields of it, such as {"cut.only" = ["heads"]}
    repairs: list[str] = field(default_factory=list)  # keys of REPAIRS; empty: all


@study(
    "repairs", marker="repairs", key=("network", "seed", "share", "repair"),
    source="arXiv:2602.23795, arXiv:2502.10216, arXiv:2602.05243, arXiv:1707.06168",
)  # fmt: skip
@dataclass(frozen=True, kw_only=True)
class Repairs(Study):
    """One cut repaired in several ways: batch norms, folding, GRAIL, refit with and without logits, distillation."""

    file: Annotated[Path, Option("Networks and shares.", metavar="FILE.toml", argument=True)] = FILE
    shares: Annotated[str | None, Option("Percent of the MACs with commas, instead of the file's.")] = None
    repairs: Annotated[str | None, Option("Names with semicolons, instead of the file's.")] = None
    seeds: Annotated[int, Option("Runs with seeds from --seed on.", minimum=1)] = 1

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row for each network, seed, share and repair."""
        values, networks = read_networks(self.file, RepairedNetwork, ("name", "model", "data"), ("shares",))
        shares = parse_shares(self.shares or ",".join(map(str, values.get("shares", [50]))))
        chosen = [n.strip() for n in self.repairs.split(";")] if self.repairs else None
        for name in (*(chosen or ()), *(n for network in networks for n in network.repairs)):
            if name not in REPAIRS:
                raise UnknownName("repair", name, REPAIRS)
        yield from run.rows_of(
            Case({"network": n.name, "seed": seed, "share": s, "repair": name}, partial(cuts.row, s, name))
            for n in networks
            for seed in range(run.seed, run.seed + self.seeds)
            for cuts in [_Cuts(n, seed, run.listener)]
            for s in shares
            for name in chosen or n.repairs or REPAIRS
        )

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """What the figures are, and a table for each network."""
        parts: list[Part] = [
            "Top-1 accuracy in percent on the test part: mean over seeds, lowest and highest. In brackets: the squared "
            "distance of the outputs from the original's on inputs held out, relative to the original's outputs."
        ]
        for name in dict.fromkeys(r["network"] for r in answer["rows"]):
            rows = [r for r in answer["rows"] if r["network"] == name]
            seeds = len({r["seed"] for r in rows})
            parts += [
                f"### {name}",
                f"Original: {rows[0]['original']:.2f} % of {rows[0]['test_samples']:,} test samples; "
                f"{rows[0]['calibration']:,} calibration samples without labels; {seeds} seeds.",
                _table(rows),
            ]
            steps = [
                f"{100 * r['share']:g} %, seed {r['seed']}: {r['steps']} steps, bounded by {r['bounded_by']}"
                for r in rows
                if r["steps"]
            ]
            parts += ["Distillation:", bullets(steps)] if steps else []
        return parts


@dataclass(frozen=True)
class _Cuts:
    """One trained network with its data and its cuts; each is made when the first row needs it."""

    network: RepairedNetwork
    seed: int
    listener: Listener
    plans: dict[float, Plan] = field(default_factory=dict)

    @property
    def context(self) -> Context:
        return Context(seed=self.seed, listener=self.listener)

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

    @cached_property
    def recipe(self) -> Recipe:
        changes = {"calibration": self.network.calibration, "seed": self.seed, **self.network.changes}
        return changed(find_recipe(self.network.recipe), changes)

    @cached_property
    def scores(self) -> tuple[Scores | None, float]:
        start = time.perf_counter()
        scores, _ = score_recipes(self.subject, [self.recipe], self.context)
        return scores.get(self.recipe.name), time.perf_counter() - start

    def row(self, share: float, repair: str) -> dict[str, Any]:
        """One cut with one repair."""
        subject = self.subject
        with seeded(self.seed), torch.random.fork_rng(devices=[]):
            scores, score_s = self.scores
            if share not in self.plans:
                self.plans[share] = plan_at(subject, self.recipe, scores, share, self.context)
            plan = self.plans[share]
            cut = stages.apply(subject, plan).network
            start = time.perf_counter()
            steps = Recipe(heal=REPAIRS[repair], calibration=self.network.calibration)
            network, done = stages.heal(subject, plan, cut, steps, self.context)
            seconds = time.perf_counter() - start
        left = count(subject.graph, plan.counts())
        distilled = done.get("distil", {})
        return {
            "original": self.original, "test_samples": sum(len(y) for _, y in self.test),
            "calibration": self.network.calibration, "macs": left.macs / subject.original.macs,
            "params": left.params / subject.original.params, "score_s": score_s, "repair_s": seconds,
            "accuracy": accuracy(network, self.test, device_of(subject.model)),
            "gap": output_gap(network, subject.held_out, subject.original_outputs),
            "steps": distilled.get("steps", 0), "bounded_by": distilled.get("bounded_by"),
        }  # fmt: skip


def _table(rows: Sequence[Row]) -> Grid:
    shares = sorted({r["share"] for r in rows}, reverse=True)
    heads = ["repair", *(f"{100 * s:g} % of MACs" for s in shares), "repair time (s)"]
    lines = []
    for name in dict.fromkeys(r["repair"] for r in rows):
        mine = [r for r in rows if r["repair"] == name]
        cells = [_cell([r for r in mine if r["share"] == s]) for s in shares]
        lines.append([name, *cells, f"{max(r['repair_s'] for r in mine):.0f}"])
    return Grid(heads, lines)


def _cell(rows: Sequence[Row]) -> str:
    """The figures of one repair at one share, over seeds.

    >>> _cell([{"accuracy": 90.0, "gap": 0.1}, {"accuracy": 92.0, "gap": 0.3}])
    '91.00, 90.00 to 92.00 (0.200)'
    """
    if not rows:
        return "–"
    values = [r["accuracy"] for r in rows]
    spread = f", {min(values):.2f} to {max(values):.2f}" if len(values) > 1 else ""
    return f"{sum(values) / len(values):.2f}{spread} ({sum(r['gap'] for r in rows) / len(rows):.3f})"
