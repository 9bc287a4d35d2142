"""`sartor bench mutations`: how many faults put into a cut network the proof refuses."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch

from sartor.structure import trace
from sartor.studies.examination import halved
from sartor.studies.grid import Grid, Part, bullets
from sartor.studies.networks import open_network
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.surgery import probe
from sartor.testing.hiding import Built, hiding
from sartor.testing.mutations import mutants_refused
from sartor.testing.plans import halves

RESNET20 = "bench/cifar_resnet.py:resnet20", "$SARTOR_DATA/weights/resnet20-cifar10.safetensors"
HEADS = ("network", "fault", "drawn", "refused", "without a fault", "groups compared", "groups left out")


@study("mutations", marker="mutations", key=("network", "drawn"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class Mutations(Study):
    """Wrong slices, swaps and attributes in cut networks whose own weights hide faults: how many the proof refuses.

    With $SARTOR_DATA set, the first network is the trained ResNet-20.
    """

    drawn: Annotated[int, Option("Faults of each kind in each network.", minimum=1)] = 250

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row a network."""
        cases = []
        for name, build in networks().items():
            cases.append(Case({"network": name, "drawn": self.drawn}, partial(self._row, build, run.seed), name))
        return run.rows_of(cases)

    def _row(self, build: Callable[[], Built], seed: int) -> dict[str, Any]:
        model, example = build()
        graph = probe(model, trace(model, example))
        plan = halved(graph, seed)
        plan = plan if plan.keep else halves(graph, seed=seed)
        verdict, tallies = mutants_refused(model, graph, plan, example, self.drawn, seed)
        faults = [{"kind": t.kind, "refused": t.refused, "passed": list(t.passed)} for t in tallies]
        return {"verdict": verdict.to_plain(), "faults": faults}

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """A table, and every fault that was not refused."""
        lines, passed = [], []
        for row in answer["rows"]:
            found = row["verdict"]
            for fault in row["faults"]:
                lines.append([
                    row["network"], fault["kind"], str(row["drawn"]), str(fault["refused"]), found["status"],
                    str(found["groups"]), str(found["mixing_groups"]),
                ])  # fmt: skip
                passed += [f"{row['network']}: {what}" for what in fault["passed"]]
        return [Grid(HEADS, lines, left=2), "Not refused:" if passed else "", bullets(passed)]

    def failures(self, answer: Mapping[str, Any]) -> Sequence[str]:
        """Faults that were not refused, and networks without a fault that did not pass."""
        missed = sum(len(f["passed"]) for row in answer["rows"] for f in row["faults"])
        refused = [row["network"] for row in answer["rows"] if not row["verdict"]["passed"]]
        found = [f"{missed} faults were not refused"] if missed else []
        return [*found, *(f"{name} did not pass without a fault" for name in refused)]


def networks() -> dict[str, Callable[[], Built]]:
    """The six networks by name; the first one with trained weights if they are at hand."""
    found = hiding()
    if os.environ.get("SARTOR_DATA"):
        first = next(iter(found))
        found = {"ResNet-20, trained": _resnet20, **{n: b for n, b in found.items() if n != first}}
    return found


def _resnet20() -> Built:
    return open_network(*RESNET20), torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
