"""Latency of one network predicted from tables: the tables are filled, and the correction learned from real cuts."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from torch import nn

from sartor.errors import SartorError
from sartor.measure import compare_afresh, prepare
from sartor.measure.tables import Predictor, Table, random_plans
from sartor.structure import Graph, trace
from sartor.structure.example import Example, with_batch
from sartor.surgery import cut
from sartor.types import SILENT, Counts, Effort, Listener, Plan, Target

ROUNDS = 4  # in which a plan is made and its widths are timed, at most
_EFFORT = Effort(sessions=1, precision=0.015, min_seconds=0.4, max_seconds=1.5)


def predictor_for(
    model: nn.Module,
    graph: Graph,
    example: Example,
    table: str | Target | Table,
    *,
    ratio: Callable[[Counts], float] | None = None,
    listener: Listener = SILENT,
) -> Predictor:
    """A predictor that is ready: missing timings are taken, and its correction is learned if it has none.

    Args:
        model: the original; borrowed.
        graph: with the groups that may be cut.
        example: inputs; repeated or cut to the batch size of the target.
        table: of the target; a target stands for its table in the default file.
        ratio: kept units by group -> measured latency as a share of the original's; None: `measured_ratio`.
        listener: is told what is timed.

    Raises:
        SartorError: the target does not work here, or nothing can be timed on it.
    """
    predictor = uncorrected_predictor(model, example, table, listener)
    if not predictor.correction.plans:
        target = predictor.table.target
        measured = ratio or measured_ratio(model, graph, example, target)
        predictor.learn(measured, random_plans(graph, 10, seed=0), listener.prefixed(f"{target.name}: "))
    return predictor


def uncorrected_predictor(
    model: nn.Module, example: Example, table: str | Target | Table, listener: Listener = SILENT
) -> Predictor:
    """A predictor whose missing timings are taken; it has a correction only if one is stored with the table.

    Args:
        model, example, table, listener: as `predictor_for` takes them.

    Raises:
        SartorError: the target does not work here, or nothing can be timed on it.
    """
    predictor = _predictor(model, example, table)
    predictor.gather(listener.prefixed(f"table of {predictor.table.target.name}: "))
    return predictor


def _predictor(model: nn.Module, example: Example, table: str | Target | Table) -> Predictor:
    """A predictor over every group, whatever groups a recipe may cut: then all recipes use the same timings."""
    table = table if isinstance(table, Table) else Table(table)
    return Predictor(trace(model, with_batch(example, table.target.batch)), table)


def measured_ratio(model: nn.Module, graph: Graph, example: Example, target: Target) -> Callable[[Counts], float]:
    """A function from kept units by group to latency on the target as a share of the original's, measured in turns."""

    def ratio(counts: Counts) -> float:
        keep = {n: tuple(range(k)) for n, k in counts.items()}
        smaller = cut(model, graph, Plan(keep, "a random plan", graph.fingerprint))
        comparison = compare_afresh(
            lambda: prepare(model, example, target), lambda: prepare(smaller, example, target), _EFFORT
        )
        return statistics.median(comparison.ratios)

    return ratio


def on_timed_widths(
    make_plan: Callable[[], Plan], predictors: Sequence[Predictor], listener: Listener = SILENT
) -> Plan:
    """A plan whose widths were all timed.

    Where interpolation between timed widths is too low, the widths look cheap and a plan would choose them. So the
    widths of the plan are timed, and a new plan is made, until none was missing; `ROUNDS` times at most.

    Args:
        make_plan: makes a plan from the current predictions.
        predictors: each times the widths of the plan.
        listener: is told what is timed.
    """
    for left in reversed(range(ROUNDS)):
        plan = make_plan()
        if not left or not sum(p.sharpen([plan.counts()], listener) for p in predictors):
            break
    return plan


def floor_words(predictor: Predictor, least: Counts) -> str:
    """A sentence on the latency of the smallest network allowed, and which operators take it."""
    return (
        f"The smallest network that the recipe allows takes {100 * predictor.ratio(least):.3g} % of the time on "
        f"{predictor.table.target.name} by the tables; of that, {_slowest(predictor, least)}"
    )


def slowest_words(model: nn.Module, example: Example, table: str | Target | Table, counts: Counts) -> str:
    """A sentence on which operators take the time of a network cut to these widths; only these widths are timed.

    Args:
        model: the original; borrowed.
        example, table: as `predictor_for` takes them; the timings are kept in the table.
        counts: kept units by group.
    """
    try:
        predictor = _predictor(model, example, table)
        predictor.sharpen([counts])
        share = _slowest(predictor, counts)
        return f"Of its operators, timed one by one for {predictor.table.target.name}, {share}"
    except SartorError as e:
        return f"The time of its operators could not be measured: {e}"


def _slowest(predictor: Predictor, counts: Counts) -> str:
    return ", ".join(f"{s.place} ({s.kind.label}) {100 * share:.0f} %" for s, share in predictor.slowest(counts))
