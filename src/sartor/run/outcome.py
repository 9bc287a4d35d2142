"""What a run hands back, and the object that describes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from sartor.budget import show_limit
from sartor.cost import by_group
from sartor.measure import environment
from sartor.run.decide import absolute
from sartor.structure import Graph
from sartor.surgery import Edits
from sartor.types import Budget, Comparison, Counted, Plan, Proof, Recipe, to_plain

_LATENCY_NOISE = 1.03  # a measured ratio this much over its limit is within what measuring twice gives


@dataclass
class Facts:
    """What the steps of a run found, in the order they find it."""

    budget: Budget
    recipe: Recipe
    graph: Graph
    original: Counted
    fitted: Counted
    plan: Plan
    proof: Proof
    quality: dict[str, float | None]
    test: dict[str, float | None]
    metric: str
    comparisons: Mapping[str, Comparison]  # by target text
    trail: list[dict[str, float | None]]
    training: list[dict[str, Any]]
    chosen_epoch: int | None
    seconds: dict[str, float]
    notes: list[str]
    model_name: str
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    model: nn.Module
    original: nn.Module
    example: Any
    graph: Graph
    plan: Plan
    edits: Edits
    proof: Proof
    result: dict[str, Any]
    record: list[dict[str, Any]]
    best_state: Mapping[str, Any] | None = None  # of the epoch validation would choose; the model holds the last

    @property
    def met(self) -> bool:
        """Whether every limit and the quality floor hold."""
        return bool(self.result["status"] == "met")


def result_of(facts: Facts, run: Path | None) -> dict[str, Any]:
    """The one object of `fit --json`."""
    rows = _budget_rows(facts)
    counted = {
        name: {"original": int(facts.original.get(name)), "fitted": int(facts.fitted.get(name))}
        for name in ("macs", "flops", "params", "bytes", "memory")
    }
    return {
        "run": str(run) if run else None,
        "model": facts.model_name,
        "recipe": facts.recipe.name,
        "status": "met" if all(r["met"] for r in rows) else "missed",
        "budget": rows,
        "quality": {"metric": facts.metric, **facts.quality},
        "test": facts.test,
        "proof": to_plain(facts.proof),
        "counted": counted,
        "latency": [_latency_row(target, c) for target, c in facts.comparisons.items()],
        "seconds": facts.seconds,
        "files": facts.files,
        "asked": {
            "budget": ", ".join([show_limit(x) for x in facts.budget.limits] + _drop_text(facts.budget)),
            "recipe": to_plain(facts.recipe),
        },
        "groups": group_rows(facts.graph, facts.plan),
        "frozen": [to_plain(f) for f in facts.graph.frozen],
        "training": facts.training,
        "chosen_epoch": facts.chosen_epoch,
        "trail": facts.trail,
        "environment": environment(),
        "notes": facts.notes,
    }


def group_rows(graph: Graph, plan: Plan | None = None) -> list[dict[str, Any]]:
    """Groups in network order, with how many units stay and what they are worth."""
    counts = plan.counts() if plan else {}
    macs_share = by_group(graph)
    sizes = {name: v for name, v in graph.tensors.items() if v.origin == "parameter"}
    whole = sum(v.numel({}) for v in {id(v): v for v in sizes.values()}.values()) or 1
    rows = []
    for name, g in graph.groups.items():
        mine = {id(sizes[m.tensor]): sizes[m.tensor].numel({}) for m in g.members if m.tensor in sizes}
        rows.append(
            {
                "name": name,
                "kind": g.kind,
                "units": g.units,
                "kept": counts.get(name, g.units),
                "mixes": g.mixes,
                "members": [f"{m.tensor}:{m.dim}" for m in g.members],
                "macs_share": round(macs_share[name], 6),
                "params_share": round(sum(mine.values()) / whole, 6),
            }
        )
    return rows


def _budget_rows(facts: Facts) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for limit in facts.budget.limits:
        if limit.metric == "latency":
            c = facts.comparisons[str(limit.target)]
            value, original = c.fitted.median_s, c.original.median_s
            bound = limit.at_most if limit.relative else limit.at_most / original
            met = c.ratio <= bound * _LATENCY_NOISE
        else:
            value, original = facts.fitted.get(limit.metric), facts.original.get(limit.metric)
            met = value <= absolute(limit, facts.original)
        rows.append(
            {
                "metric": limit.metric,
                "target": limit.target,
                "limit": limit.at_most,
                "relative": limit.relative,
                "original": original,
                "value": value,
                "met": bool(met),
            }
        )
    if facts.budget.max_drop is not None:
        before, after = facts.quality["original"], facts.quality["final"]
        assert before is not None and after is not None
        rows.append(
            {
                "metric": "drop",
                "target": None,
                "limit": facts.budget.max_drop,
                "relative": False,
                "original": 0.0,
                "value": round(before - after, 6),
                "met": before - after <= facts.budget.max_drop,
            }
        )
    return rows


def _drop_text(budget: Budget) -> list[str]:
    return [] if budget.max_drop is None else [f"drop<={budget.max_drop:g}"]


def noise_note(target: str, measured: Comparison) -> str:
    """What a reader has to know about a comparison on a noisy machine."""
    low, high = measured.interval
    return (
        f"the machine was busy while {target} was measured: {measured.noisy}; "
        f"the interval is wide, {low:.3f} to {high:.3f}"
    )


def _latency_row(target: str, c: Comparison) -> dict[str, Any]:
    return {
        "target": target,
        "original_ms": 1e3 * c.original.median_s,
        "fitted_ms": 1e3 * c.fitted.median_s,
        "ratio": c.ratio,
        "interval": list(c.interval),
        "noisy": c.noisy,
        "samples": {
            "original_ms": [round(1e3 * s, 5) for s in c.original.times],
            "fitted_ms": [round(1e3 * s, 5) for s in c.fitted.times],
        },
    }
