"""Latency read from tables for one network: the tables gathered, the correction learned from real cuts of it."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from torch import nn

from sartor.errors import SartorError
from sartor.measure import compare_afresh, parse_target, prepare
from sartor.measure.tables import Predictor, Store, Table, Timer, random_plans
from sartor.structure import Graph, trace
from sartor.structure.example import Example, with_batch
from sartor.surgery import cut
from sartor.types import Counts, Effort, Plan, Target

PLANNED = 4
_EFFORT = Effort(sessions=1, precision=0.015, min_seconds=0.4, max_seconds=1.5)


def predictor_for(
    model: nn.Module,
    graph: Graph,
    example: Example,
    target: str | Target,
    *,
    store: Store | None = None,
    timer: Timer | None = None,
    ratio: Callable[[Counts], float] | None = None,
    correct: bool = True,
    tell: Callable[[str], None] = lambda text: None,
) -> Predictor:
    """A predictor that is ready: what its table lacks is timed, and its correction learned if it has none.

    Args:
        model: the original; borrowed.
        graph: with the groups that may be cut.
        example: inputs; one batch of the target is taken.
        target: where latency is true.
        store: the file of the tables; None: the default place.
        timer: takes the times of segments; None: as `Table` chooses.
        ratio: kept units by group -> measured latency as a share of the original's; None: cut and compared here.
        correct: False: no complete network is measured.
        tell: progress.

    Raises:
        SartorError: the target does not work here, or nothing can be timed on it.
    """
    target = parse_target(target)
    # every group, whatever a recipe allows: so tables are the same for all recipes
    whole = trace(model, with_batch(example, target.batch))
    predictor = Predictor(whole, Table(target, store=store, timer=timer))
    predictor.gather(lambda text: tell(f"table of {target.name}: {text}"))
    if correct and not predictor.correction.plans:
        measured = ratio or measured_ratio(model, graph, example, target)
        predictor.learn(measured, random_plans(graph, 10, seed=0), lambda text: tell(f"{target.name}: {text}"))
    return predictor


def measured_ratio(model: nn.Module, graph: Graph, example: Example, target: Target) -> Callable[[Counts], float]:
    """Kept units by group -> latency on the target as a share of the original's, measured in turns."""

    def ratio(counts: Counts) -> float:
        keep = {n: tuple(range(k)) for n, k in counts.items()}
        smaller = cut(model, graph, Plan(keep, "a random plan", graph.fingerprint))
        found = compare_afresh(
            lambda: prepare(model, example, target), lambda: prepare(smaller, example, target), _EFFORT
        )
        return statistics.median(found.ratios)

    return ratio


def on_timed_widths(
    plan: Callable[[], Plan], predictors: Sequence[Predictor], tell: Callable[[str], None] = lambda text: None
) -> Plan:
    """A plan all of whose widths were timed: what a table guesses too low between them is what a plan would choose.

    Args:
        plan: makes one from what the predictors say at that moment.
        predictors: time the widths of each; the plan is made anew, `PLANNED` times at most, while any were missing.
    """
    for left in reversed(range(PLANNED)):
        found = plan()
        if not left or not sum(p.sharpen([found.counts()], tell) for p in predictors):
            break
    return found


def floor_words(predictor: Predictor, least: Counts) -> str:
    """What the smallest network allowed takes, and which operators make it."""
    return (
        f"The smallest network that the recipe allows takes {100 * predictor.ratio(least):.3g} % of the time on "
        f"{predictor.table.target.name} by the tables; of that, {_slowest(predictor, least)}"
    )


def slowest_words(
    model: nn.Module,
    example: Example,
    target: str | Target,
    counts: Counts,
    *,
    store: Store | None = None,
    timer: Timer | None = None,
) -> str:
    """Which operators make the time of a network cut to these widths; only these are timed, and kept in the tables."""
    target = parse_target(target)
    try:
        whole = trace(model, with_batch(example, target.batch))
        predictor = Predictor(whole, Table(target, store=store, timer=timer))
        predictor.sharpen([counts])
        return f"Of its operators, timed one by one for {target.name}, {_slowest(predictor, counts)}"
    except SartorError as e:
        return f"Which operators make it could not be told: {e}"


def _slowest(predictor: Predictor, counts: Counts) -> str:
    return ", ".join(f"{s.place} ({s.kind.label}) {100 * share:.0f} %" for s, share in predictor.slowest(counts))
