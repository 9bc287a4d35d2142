"""The rows of a record, computed from what the stages gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from sartor.cost import by_group
from sartor.export.delivery import DeliveredFile
from sartor.run.record import SEVERITY, BudgetRow, FrozenRow, GroupRow, LatencyRow, Pair, Samples
from sartor.structure import Graph
from sartor.types import Bounds, Comparison, Counted, LimitStatus, Plan, Recipe

COUNTED = ("macs", "flops", "params", "bytes", "memory")


def budget_rows(
    bounds: Bounds, fitted: Counted, comparisons: Mapping[str, Comparison], drop: tuple[float, float] | None
) -> list[BudgetRow]:
    """Every limit, and whether the fitted network meets it.

    Args:
        bounds: the budget beside the original's costs.
        fitted: costs of the fitted network.
        comparisons: latencies by target; that of a target which the budget names is missing where the timing failed.
        drop: quality before and after; None: it was not judged.
    """
    rows = []
    for limit in bounds.budget.limits:
        value: float | None
        original: float | None
        status: LimitStatus
        if limit.metric == "latency":
            c = comparisons.get(str(limit.target))
            value, original, status = None, None, "not measured"
            if c is not None:
                value, original = c.fitted.median_s, c.original.median_s
                status = c.against(bounds.latency_ratio(limit, original))
        else:
            value, original = fitted.get(limit.metric), bounds.original.get(limit.metric)
            status = "met" if bounds.holds(limit, fitted) else "missed"
        rows.append(
            BudgetRow(
                metric=limit.metric, target=limit.target, limit=limit.at_most, relative=limit.relative,
                original=original, value=value, status=status,
            )
        )  # fmt: skip
    if bounds.budget.max_drop is not None and drop is not None:
        before, after = drop
        rows.append(
            BudgetRow(
                metric="drop", target=None, limit=bounds.budget.max_drop, relative=False, original=0.0,
                value=round(before - after, 6), status="met" if bounds.drop_holds(before, after) else "missed",
            )
        )  # fmt: skip
    return rows


def counted_rows(original: Counted, fitted: Counted) -> dict[str, Pair]:
    """Costs that are counted, by metric; live weights only where a recipe masks weights."""
    names = (*COUNTED, "weights") if original.weights else COUNTED
    return {name: Pair(original=int(original.get(name)), fitted=int(fitted.get(name))) for name in names}


def group_rows(graph: Graph, plan: Plan | None = None) -> list[GroupRow]:
    """Groups in network order, with how many units stay and what they are worth."""
    counts = plan.counts() if plan else {}
    macs_share = by_group(graph)
    sizes = {name: v for name, v in graph.tensors.items() if v.origin == "parameter"}
    whole = sum(v.numel({}) for v in {id(v): v for v in sizes.values()}.values()) or 1
    rows = []
    for name, g in graph.groups.items():
        mine = {id(sizes[m.tensor]): sizes[m.tensor].numel({}) for m in g.members if m.tensor in sizes}
        rows.append(
            GroupRow(
                name=name, kind=g.kind, units=g.units, kept=counts.get(name, g.units), mixes=g.mixes,
                members=[f"{m.tensor}:{m.dim}" for m in g.members], macs_share=round(macs_share[name], 6),
                params_share=round(sum(mine.values()) / whole, 6),
            )
        )  # fmt: skip
    return rows


def frozen_rows(graph: Graph) -> list[FrozenRow]:
    """What cannot be cut, with reasons."""
    return [FrozenRow(axis=f.axis, size=f.size, reason=f.reason) for f in graph.frozen]


def worst_status(rows: Iterable[BudgetRow]) -> LimitStatus:
    """The status of a budget."""
    return max((row.status for row in rows), key=SEVERITY.index, default="met")


def latency_row(target: str, c: Comparison, file: DeliveredFile | None = None) -> LatencyRow:
    """One target, and the delivered file that was timed on it; None: the module."""
    return LatencyRow(
        file=None if file is None else file.path.name, sha256=None if file is None else file.sha256,
        target=target, original_ms=1e3 * c.original.median_s, fitted_ms=1e3 * c.fitted.median_s, ratio=c.ratio,
        interval=c.interval, noisy=c.noisy,
        samples=Samples(
            original_ms=[round(1e3 * s, 5) for s in c.original.times],
            fitted_ms=[round(1e3 * s, 5) for s in c.fitted.times],
        ),
    )  # fmt: skip


def noise_note(target: str, measured: Comparison) -> str:
    """What a reader has to know about a comparison on a noisy machine."""
    low, high = measured.interval
    return (
        f"the machine was busy while {target} was measured: {measured.noisy}; "
        f"the interval is wide, {low:.3f} to {high:.3f}"
    )


def not_measured_note(target: str, error: Exception, folder: Path | None, *, limited: bool) -> str:
    """What a reader has to know about a timing that failed after the network was ready."""
    reason = f"{type(error).__name__}: {error}"
    if not limited:
        return f"latency on {target} was not measured, and nobody asked for it: {reason}"
    where = f"is complete in {folder}" if folder else "is complete: fitted.model, fitted.save(folder)"
    return f"LATENCY NOT MEASURED on {target}, so nobody knows whether its limit holds: {reason}. The network {where}"


def slower_note(target: str, measured: Comparison) -> str:
    """What a reader has to know about a fitted network that takes longer than the original."""
    return (
        f"SLOWER THAN THE ORIGINAL: the delivered network takes {measured.ratio:.2f} times the original's time on "
        f"{target}: kernels there do not like its widths. Keep multiples of 8 (recipe field allocate.round_to=8), or "
        f"limit the time itself: 'latency<=80% @ {target}'"
    )


def rewrite_note(modules: Mapping[str, Sequence[str]]) -> str:
    """What a user has to know about forwards that are rewritten.

    Args:
        modules: module path -> what its forward no longer takes, as sentences.
    """
    paths = list(modules)
    named = ", ".join(p or "the model itself" for p in paths[:3]) + (", ..." if len(paths) > 3 else "")
    limits = dict.fromkeys(f"{p or 'the model'} {x}" for p, sentences in modules.items() for x in sentences)
    general = "; ".join(list(limits)[:4]) + ("; ..." if len(limits) > 4 else "")
    return (
        "forwards that state sizes which no attribute holds are rewritten from their operators: "
        f"{len(paths)} ({named}). {f'What they no longer take: {general}. ' if general else ''}"
        "What their authors do in training only, besides dropout and batch norm, is left out"
    )


def plain_rows(rows: Iterable[BaseModel]) -> list[dict[str, Any]]:
    """Rows as plain objects."""
    return [row.model_dump(mode="json") for row in rows]


def score_name(recipe: Recipe) -> str:
    """What chooses units in a recipe, as the record names it."""
    how = recipe.score
    if how.kind != "criterion":
        return how.kind
    return str(getattr(how.criterion, "__name__", how.criterion))
