"""`sartor bench workloads`: networks of many fields, cut, repaired and trained for an epoch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from sartor.budget import parse_budget
from sartor.cost import count
from sartor.recipes import changed, find_recipe
from sartor.run import stages
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.structure.example import batch_of
from sartor.studies.grid import Grid, Part, bullets, machine
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.studies.workloads_real import real_workloads
from sartor.testing.workloads import WORKLOADS, Workload, train_
from sartor.testing.workloads.contract import pinned_share, understood
from sartor.types import Effort, Judge, Listener
from sartor.units import show_count

_SAMPLES = 100_000  # all training batches: the nodes of a graph cannot be told from samples, so none may be left out
_QUICK = Effort(sessions=3, precision=0.02, min_seconds=0.2, max_seconds=1.0)
HEADS = (
    "network", "field", "groups", "cost left", "MACs of the original", "latency, share of the original",
    "quality", "original", "cut", "repaired", "after one epoch", "verdict", "what is preserved: error before, after",
)  # fmt: skip


@study("workloads", marker="workloads", key=("name", "share", "seed"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class Workloads(Study):
    """Networks of many fields: cut, repaired and trained for an epoch, with what each must preserve."""

    share: Annotated[float, Option("Percent of the MACs (or bytes) that is left.", minimum=1.0)] = 70.0
    recipe: Annotated[str, Option("Decides what is cut, and repairs.")] = "reconstruction"
    epochs: Annotated[int, Option("Of training before the cut; 0: as the network says.", minimum=0)] = 0
    target: Annotated[str, Option("Where latency is measured.")] = "onnxruntime-cpu:threads=1"
    data: Annotated[
        Path | None,
        Option("Folder with real data: only networks that train on it."),
    ] = None

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row a network."""
        generated = {e.name: e.value for e in WORKLOADS.entries()}
        entries: Mapping[str, Workload] = generated if self.data is None else real_workloads(self.data)
        yield from run.rows_of(
            Case({"name": n, "share": self.share, "seed": run.seed}, partial(self._row, entry, run.seed, run.listener))
            for n, entry in entries.items()
        )

    def _row(self, entry: Workload, seed: int, listener: Listener) -> dict[str, Any]:
        """The row of one network; one that cannot be scored or cut has the reason in "why" and nothing behind it."""
        start = time.perf_counter()
        recipe = changed(find_recipe(self.recipe), {"calibration": _SAMPLES, "seed": seed})
        context = Context(judge=Judge(loss=entry.loss()), seed=seed, listener=listener)
        model, graph = understood(entry, self.epochs or None)
        data = entry.data()
        val, train = list(data.val or ()), list(data.train or ())
        first, *others = entry.examples()
        subject = Subject(model, first, graph, count(graph), others=tuple(others), samples=tuple(train)).allowed(recipe)
        row: dict[str, Any] = {
            "field": entry.field, "source": entry.source, "budget": entry.budget, "target": self.target,
            "groups": len(subject.graph.groups), "pinned": pinned_share(subject.graph), "macs": subject.original.macs,
            "quality_name": entry.quality_name, "quality": {"original": entry.quality(model, val)},
            "preserves": entry.preserves, "violation": {"before": entry.violation(model)}, "why": {},
        }  # fmt: skip
        bounds = parse_budget(f"{entry.budget}<={self.share:g}%").against(subject.original)
        with seeded(seed):
            try:
                scores = stages.score(subject, recipe, bounds, context)
                plan = stages.decide(subject, recipe, scores, bounds, context).plan
                # the nodes of a graph cannot be told from samples, so the proof takes the example as it is
                cut = stages.apply(replace(subject, samples=()), plan)
            except Exception as e:
                return {**row, "why": {"cut": _message(e)}, "seconds": time.perf_counter() - start}
            row["quality"]["cut"] = entry.quality(cut.network, val)
            network = cut.network
            try:
                network, _ = stages.heal(subject, plan, network, recipe, context)
                row["quality"]["repaired"] = entry.quality(network, val)
            except Exception as e:
                row["why"]["repair"] = _message(e)
        row["violation"]["after"] = entry.violation(network)
        try:
            target = f"{self.target}{',' if ':' in self.target else ':'}batch={batch_of(first)}"  # the example as it is
            compared = stages.observe(subject, network, target, _QUICK)
            row["latency"] = {"ratio": compared.ratio, "interval": compared.interval}
        except Exception as e:
            row["why"]["latency"] = _message(e)
        train_(network, entry, 1, train)
        row["quality"]["trained"] = entry.quality(network, val)
        left = count(subject.graph, plan.counts()).get(entry.budget) / subject.original.get(entry.budget)
        return {**row, "left": left, "verdict": cut.verdict.to_plain(), "seconds": time.perf_counter() - start}

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """A caption, one table, and what could not be done, with the reason."""
        rows: Sequence[Row] = answer["rows"]
        share = rows[0]["share"] if rows else self.share
        parts: list[Part] = [
            f"Each network is cut to {share:g} % of its MACs, or of its bytes where embeddings dominate. "
            f"Machine: {machine(answer.get('environment'), ('torch', 'onnxruntime'))}.",
            Grid(HEADS, [cells(r) for r in rows], left=2),
        ]
        failed = [f"`{r['name']}`, {stage}: {reason}" for r in rows for stage, reason in r["why"].items()]
        left_out = [
            f"`{r['name']}`: {group} ({reason})"
            for r in rows
            if "verdict" in r
            for group, reason in r["verdict"]["left_out"][:2]
        ]
        parts += ["Not done, and why:", bullets(failed)] if failed else []
        parts += ["Groups whose function has no reference, and why:", bullets(left_out)] if left_out else []
        return parts


def _message(e: Exception) -> str:
    return f"{type(e).__name__}: {e}".split("\n")[0][:300]


def cells(row: Row) -> list[str]:
    """The cells of one network, as many as HEADS; those that could not be had are dashes."""
    quality, latency, violation = row["quality"], row.get("latency"), row["violation"]
    number = lambda key: f"{quality[key]:.2f}" if key in quality else "–"
    timed = "–"
    if latency:
        low, high = latency["interval"]
        timed = f"{100 * latency['ratio']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
    errors = ", ".join(f"{violation[when]:.0e}" for when in ("before", "after") if when in violation)
    return [
        row["name"], row["field"], str(row["groups"]),
        f"{100 * row['left']:.0f} % of {row['budget']}" if "left" in row else "–", show_count(row["macs"]), timed,
        row["quality_name"], *(number(key) for key in ("original", "cut", "repaired", "trained")),
        row["verdict"]["status"] if "verdict" in row else "–", f"{row['preserves']}: {errors}",
    ]  # fmt: skip
