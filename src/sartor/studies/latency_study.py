"""`sartor bench latency`: limits on latency, networks fitted to them, and another process that measures them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from torch import nn

from sartor.cost import macs
from sartor.errors import BadInput, BudgetNotMet
from sartor.example_input import parse_input
from sartor.measure import compare_afresh, environment, parse_target, prepare
from sartor.recipes import changed, find_recipe
from sartor.run import stages
from sartor.run.context import DEFAULTS, Context
from sartor.seed import seeded
from sartor.structure import trace
from sartor.structure.example import Example
from sartor.studies.grid import Grid, Part, bullets
from sartor.studies.networks import open_network, read_networks
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.surgery import cut, probe
from sartor.testing.isolation import isolated
from sartor.types import Budget, Comparison, Effort, Limit, Plan, Recipe
from sartor.units import parse_shares

FILE = Path("bench/latency.toml")
EFFORT = Effort(sessions=5, precision=0.01, min_seconds=1.0, max_seconds=3.0)
WINDOW = (0.93, 1.03)  # measured / limit in this interval: the limit is met, without cutting much more than needed
HEADS = (
    "network", "target", "latency limit", "measured afterwards", "95 % interval", "measured / limit", "MACs kept",
    "measured in the search", "predicted by tables", "search rounds", "seconds",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class LatencyNetwork:
    """A [[network]] of the bench file."""

    name: str
    model: str
    input: str  # shapes, as --input takes them
    options: dict[str, Any] = field(default_factory=dict)

    def build(self, seed: int) -> tuple[nn.Module, Any]:
        """The network with the random weights of a seed, and its example input."""
        with seeded(seed):
            return open_network(self.model, options=self.options), parse_input(self.input)


@dataclass(frozen=True)
class LatencyCase:
    """One network under one limit; it can be pickled for another process."""

    network: LatencyNetwork
    target: str
    limit: float
    recipe: Recipe
    seed: int

    def fitted(self) -> dict[str, Any]:
        """Runs in another process: the plan as JSON, and figures of the search."""
        row = fit_to_latency(
            *self.network.build(self.seed), Limit("latency", self.limit, True, self.target), self.recipe,
            Context(seed=self.seed),
        )  # fmt: skip
        floor = row.pop("floor")
        return {**row, "plan": row["plan"] and row["plan"].to_json(), **({"why": floor} if floor else {})}

    def measured(self, plan: str) -> dict[str, Any]:
        """Runs in another process: the latency of the plan's network."""
        comparison = measured_again(*self.network.build(self.seed), self.target, Plan.from_json(plan))
        return {"again": comparison.ratio, "interval": list(comparison.interval), "noisy": comparison.noisy}

    def row(self, seconds: float) -> dict[str, Any]:
        """Fit and measure, each in a new process; "why" says what failed."""
        row, reason = isolated(self.fitted, seconds=seconds, fresh=True)
        nothing = {"plan": None, "macs": None, "ratio": None, "predicted": None, "rounds": 0, "seconds": 0.0}
        row = dict(row or {**nothing, "why": reason})
        if row["plan"] is not None:
            latency, reason = isolated(partial(self.measured, row["plan"]), seconds=seconds, fresh=True)
            row |= latency or {"why": reason}
        return row


@study("latency", marker="promise", key=("network", "target", "limit", "recipe", "seed"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class LatencyStudy(Study):
    """Fit networks to shares of their latency; a new process measures each against its original once more."""

    file: Annotated[Path, Option("Networks, targets, limits.", metavar="FILE.toml", argument=True)] = FILE
    target: Annotated[list[str] | None, Option("Instead of the file's; repeatable.")] = None
    limits: Annotated[str | None, Option("Percent with commas, instead of the file's.")] = None
    recipe: Annotated[str, Option("Its criterion must do without data.")] = "l1"
    allocation: Annotated[str | None, Option("Instead of the recipe's, such as knapsack.")] = None
    seconds: Annotated[float, Option("For one case, at most.", minimum=1.0)] = 1800.0

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row for each network, target and limit."""
        targets, limits, networks = read_cases(self.file)
        targets = self.target or targets
        for target in targets:
            parse_target(target)
        limits = parse_shares(self.limits, "--limits") if self.limits else limits
        networks = [n for n in networks if run.selects(n.name)]
        if not networks:
            raise BadInput(f"--only: no network of {self.file} has {run.only!r} in its name")
        recipe = find_recipe(self.recipe)
        if self.allocation is not None:
            recipe = changed(recipe, {"allocate.kind": self.allocation, "score.per_cost": 0.0})
        yield from run.rows_of(
            Case(
                {"network": n.name, "target": t, "limit": x, "recipe": self.recipe_name, "seed": run.seed},
                partial(LatencyCase(n, t, x, recipe, run.seed).row, self.seconds),
                f"{n.name}, {t}, {100 * x:g} %",
            )
            for n in networks for t in targets for x in limits
        )  # fmt: skip

    @property
    def recipe_name(self) -> str:
        """The recipe, and the allocation if it is not the recipe's."""
        return self.recipe if self.allocation is None else f"{self.recipe}, {self.allocation}"

    def answer(self, rows: Sequence[Row], run: StudyRun) -> dict[str, Any]:
        """Rows without their plans."""
        rows = [{k: v for k, v in row.items() if k != "plan"} for row in rows]
        return {"recipe": self.recipe_name, "rows": rows, "environment": environment()}

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """The table, its summary, and the messages of limits that could not be reached."""
        rows: Sequence[Row] = answer["rows"]
        total, facts = limit_summary(rows), answer.get("environment") or {}
        installed = facts.get("versions") or {}
        versions = ", ".join(f"{p} {installed[p]}" for p in ("torch", "onnxruntime") if p in installed)
        failed = [f"{_case(r)}: {r['why']}" for r in rows if r.get("why")]
        busy = [f"{_case(r)}: the machine was busy: {r['noisy']}; the interval is wide" for r in rows if r.get("noisy")]
        extremes = (
            f"; the largest is {total['worst']:.3f}, the median {total['median']:.3f}" if total["reached"] else ""
        )
        return [
            f"Measured with {versions} on {facts.get('cpu', 'a CPU')}; recipe `{answer['recipe']}`, random weights.",
            Grid(heads(rows), lines(rows)),
            f"{total['within']} of {total['cases']} within {WINDOW[0]}–{WINDOW[1]} of the limit{extremes}.",
            bullets(failed + busy),
        ]


def read_cases(path: Path) -> tuple[list[str], list[float], list[LatencyNetwork]]:
    """Targets, limits and networks of a bench file; errors as those of `read_networks`."""
    values, networks = read_networks(path, LatencyNetwork, ("name", "model", "input"), ("targets", "limits"))
    targets = values.get("targets")
    if not isinstance(targets, list) or not targets or not all(isinstance(t, str) for t in targets):
        raise BadInput(f'{path}: expected targets = ["onnxruntime-cpu", ...]; got {targets!r}')
    return targets, parse_shares(",".join(map(str, values.get("limits", []))), f"{path}, limits"), networks


def fit_to_latency(
    model: nn.Module, example: Example, limit: Limit, recipe: Recipe, context: Context = DEFAULTS
) -> dict[str, Any]:
    """Choose widths of a network that meet a limit on latency, without training.

    Args:
        model: borrowed. Scores come from its weights alone.
        limit: on latency, relative to the original's.
        recipe: its criterion needs no data.
        context: the seed and the listener.

    Returns:
        {"plan" (None: the limit cannot be met), "floor" (the message if it cannot be met, else ""), "macs" (share
        left), "ratio" (as the latency search measured it), "predicted" (by tables, else None), "rounds",
        "noisy_rounds", "seconds"}.
    """
    start = time.perf_counter()
    subject = stages.understand(model, example)
    whole, bounds = subject.graph, Budget((limit,)).against(subject.original)
    subject = subject.allowed(recipe)
    row: dict[str, Any] = {"plan": None, "floor": "", "macs": None, "ratio": None, "predicted": None}
    scores = stages.score(subject, recipe, bounds, context)
    try:
        decision = stages.decide(subject, recipe, scores, bounds, context)
    except BudgetNotMet as e:
        return {**row, "floor": str(e), "rounds": 0, "noisy_rounds": 0, "seconds": time.perf_counter() - start}
    share = macs(whole, decision.plan.counts()) / subject.original.macs
    last = next((s for s in reversed(decision.trail) if abs(s.macs_share - share) < 1e-9), None)
    row |= {"plan": decision.plan, "macs": share}
    if last is not None:
        row |= {"ratio": last.ratio, "predicted": last.predicted}
    noisy = sum(bool(s.noisy) for s in decision.trail)
    return {**row, "rounds": len(decision.trail), "noisy_rounds": noisy, "seconds": time.perf_counter() - start}


def measured_again(
    model: nn.Module, example: Example, target: str, plan: Plan, *, effort: Effort = EFFORT
) -> Comparison:
    """The cut network against the original, several sessions in turns."""
    smaller = cut(model, probe(model, trace(model, example)), plan)
    return compare_afresh(lambda: prepare(model, example, target), lambda: prepare(smaller, example, target), effort)


def limit_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """{"cases", "reached" (the limit was met), "within" (WINDOW), "worst" (largest measured / limit), "median"}."""
    quotients = [r["again"] / r["limit"] for r in rows if r.get("again") is not None]
    return {
        "cases": len(rows), "reached": len(quotients), "within": sum(WINDOW[0] <= q <= WINDOW[1] for q in quotients),
        "worst": max(quotients, default=None), "median": statistics.median(quotients) if quotients else None,
    }  # fmt: skip


def heads(rows: Sequence[Row]) -> tuple[str, ...]:
    """Heads of the columns, with one for the machine if it was busy in any of the rows."""
    return (*HEADS, "machine") if any(r.get("noisy") for r in rows) else HEADS


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """One line for every row, with as many cells as `heads`."""
    table = [cells(row) for row in rows]
    if len(heads(rows)) > len(HEADS):
        table = [[*line, _machine(row)] for line, row in zip(table, rows)]
    return table


def _machine(row: Row) -> str:
    if row.get("noisy") is None:  # rows of older versions do not record it
        return "–"
    return "busy" if row["noisy"] else "quiet"


def cells(row: Row) -> list[str]:
    """The cells of one row, as many as HEADS."""
    start = [row["network"], row["target"], f"{100 * row['limit']:g} %"]
    took = f"{row['seconds']:.0f}"
    if row.get("again") is None:
        return [*start, "not reached", "", "", "", "", "", str(row["rounds"]), took]
    low, high = row["interval"]
    return [
        *start, f"{100 * row['again']:.1f} %", f"{100 * low:.1f}–{100 * high:.1f} %",
        f"{row['again'] / row['limit']:.3f}", f"{100 * row['macs']:.1f} %", _percent(row["ratio"]),
        _percent(row["predicted"]), str(row["rounds"]), took,
    ]  # fmt: skip


def _case(row: Row) -> str:
    return f"{row['network']}, {row['target']}, {100 * row['limit']:g} %"


def _percent(x: float | None) -> str:
    return "–" if x is None else f"{100 * x:.1f} %"
