"""Latency limits: plans are cut, timed in turns with the original, and corrected until the limit is met."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeAlias

from sartor.allocate import Cap, SearchOptions, Step, allocator_of, fit_latency, floor_counts
from sartor.cost import macs
from sartor.errors import BadInput, BudgetNotMet, NothingToDo
from sartor.run.caps import macs_cap
from sartor.run.context import Context
from sartor.run.stopwatch import NEAR, Stopwatch
from sartor.run.subject import Subject
from sartor.run.table_latency import floor_words, on_timed_widths, predictor_for
from sartor.types import Bounds, Listener, Plan
from sartor.types.recipe import Allocation, Custom, ErdosRenyi, Global, Knapsack, Uniform

_AIM = 0.985  # of a latency limit: room for half the interval of the verdict, all of which has to lie below the limit
_LEAST_AIM = 0.95  # ... where sessions differ by more
_CORRECTIONS = 2
_SLACK = 0.04  # a plan may be this much faster than what is aimed at
_STEPS = (1, 4, 8, 16)  # multiples of units to try on the target: kernels work on whole vectors


_OfUnits: TypeAlias = Global | Uniform | Knapsack | Custom


class Planner(Protocol):
    """A plan under the counted limits of the budget and further caps; `round_to` None: as the recipe says."""

    def __call__(self, caps: Sequence[Cap], round_to: int | None = None) -> Plan: ...


def meet_latency(
    subject: Subject, allocation: Allocation, bounds: Bounds, plan_under: Planner, context: Context
) -> tuple[Plan, tuple[Step, ...]]:
    """The plan that meets every limit on latency, and every plan that was timed on the way.

    Args:
        subject: with the groups that may be cut.
        allocation: of the recipe: its floor, its multiples, and whether its allocator reads latency from tables.
        bounds: at least one limit is on latency.
        plan_under: makes a plan.
        context: its listener receives every measurement as a line of progress; its delivery exports the plan that was
            found as it will be delivered, to confirm it.

    Raises:
        BadInput: the allocation is one of weights.
        BudgetNotMet: names the fastest network that was measured and the operators that take its time.
        NothingToDo: the original already meets every limit.
    """
    if isinstance(allocation, ErdosRenyi):
        raise BadInput("latency: the densities of Erdős and Rényi are of weights, and masked weights take as long")
    watch = Stopwatch(subject, bounds, context)
    if watch.goal >= 1:
        raise NothingToDo("the original already meets every latency limit")
    if allocator_of(allocation).traits.get("reads_tables"):
        plan = _planned_by_table(watch, allocation, plan_under)
    else:
        plan = _planned_by_timing(watch, allocation, bounds, plan_under)
    return plan, watch.trail()


def _planned_by_timing(watch: Stopwatch, allocation: _OfUnits, bounds: Bounds, plan_under: Planner) -> Plan:
    """Which multiples of units this target rewards, then how many MACs it can have.

    Where preparing a plan takes long, both are found on a rehearsal target first and confirmed on the target itself.
    """
    goal, graph = watch.goal, watch.subject.graph
    scout = watch.rehearsal() or watch

    def plan_at(share: float | None, round_to: int) -> Plan:
        return plan_under([] if share is None else [macs_cap(graph, bounds, share)], round_to)

    ratio_by_step: dict[int, float] = {}
    for step in dict.fromkeys((allocation.round_to or 1) * k for k in _STEPS):
        if step > 1 and step >= max((g.units for g in graph.groups.values()), default=1):
            continue
        try:
            ratio_by_step[step] = scout.ratio(plan_at(goal, step))
        except BudgetNotMet:  # too coarse to reach that share
            continue
    missed: list[BudgetNotMet] = []
    for step in sorted(ratio_by_step, key=lambda k: ratio_by_step[k]) or [allocation.round_to or 1]:
        if bounds.counted:
            try:
                plan = plan_at(None, step)
                if plan.keep == plan_at(goal, step).keep and watch.ratio(plan) <= goal * _AIM:
                    return plan  # the counted limits alone make it fast enough
            except NothingToDo:
                pass
        floor = macs(graph, floor_counts(_units(watch), graph.ties, allocation.floor, step))
        floor_share = floor / bounds.original.macs

        def stepped(share: float, step: int = step) -> Plan:
            return plan_at(share, step)

        try:
            first = None if scout is watch else _rehearsed_share(scout, stepped, floor_share)
            return _closed_loop(watch, stepped, floor_share, first)
        except BudgetNotMet as e:  # steps this coarse leave too much; finer ones reach further
            missed.append(e)
    raise _not_met(watch, missed[-1]) from missed[-1]


def _not_met(watch: Stopwatch, last: BudgetNotMet) -> BudgetNotMet:
    """The error that names the fastest network measured."""
    limits = " and ".join(
        f"{x.target} at most {100 * a:.4g} % of the original" for x, a in zip(watch.limits, watch.allowed)
    )
    fastest = min(watch.seen, key=lambda row: row.ratio, default=None)
    if fastest is None:
        return last
    return BudgetNotMet(
        f"latency, {limits}: the fastest network measured takes {100 * fastest.ratio:.4g} % of the time with "
        f"{100 * watch.macs_share(fastest.plan):.4g} % of the MACs. {watch.slowest_operators(fastest.plan)}. "
        "Allow more, lower the recipe's floor, or cut more groups",
        fastest.plan,
    )


def _planned_by_table(watch: Stopwatch, allocation: _OfUnits, plan_under: Planner) -> Plan:
    """Plan on what tables predict, measure the plan, and move the limit of the plan by the error of the tables."""
    subject = watch.subject
    step = allocation.round_to or 1  # tables know what every width costs
    listener = Listener(lambda step, done, text: watch.tell(text))
    watch.predictors = [
        predictor_for(subject.model, subject.graph, subject.example, str(x.target), listener=listener)
        for x in watch.limits
    ]

    def plan_at(share: float) -> Plan:
        def plan() -> Plan:
            return plan_under(
                [
                    Cap(p.cost(), share * p.original * a / watch.goal, "latency")
                    for p, a in zip(watch.predictors, watch.allowed)
                ],
                step,
            )

        return on_timed_widths(plan, watch.predictors, listener)

    least = floor_counts(_units(watch), subject.graph.ties, allocation.floor, step)
    floor = watch.predicted(least) or 0.0
    try:
        return _closed_loop(watch, plan_at, floor)
    except BudgetNotMet as e:
        raise BudgetNotMet(f"{e}. {' '.join(floor_words(p, least) for p in watch.predictors)}", e.plan) from e


def _rehearsed_share(scout: Stopwatch, plan_at: Callable[[float], Plan], floor: float) -> float | None:
    """The share of the MACs to begin with.

    None: the rehearsal cannot meet the limit, which does not yet say that the target cannot.
    """
    try:
        options = SearchOptions(tolerance=NEAR, rounds=4, lowest=min(floor, 0.999))
        plan, _ = fit_latency(plan_at, scout.ratio, scout.goal * _AIM, options)
    except BudgetNotMet:
        return None
    share = scout.macs_share(plan)
    return share if share < 1 else None


def _closed_loop(watch: Stopwatch, plan_at: Callable[[float], Plan], floor: float, first: float | None = None) -> Plan:
    """Search, time the result once more as it will be delivered, and search on from there while it is not at the limit.

    A search picks the plan whose measurement came out best, so measured again it tends to be a little slower. It is at
    the limit if the whole interval of its ratio lies below, and not by much.
    """
    options = SearchOptions(tolerance=_SLACK, rounds=8, lowest=min(floor, 0.999), first=first)
    aim = watch.goal * _AIM
    for left in reversed(range(_CORRECTIONS + 1)):
        plan, _ = fit_latency(plan_at, watch.ratio, aim, options)
        if not left:
            break
        ratio = watch.confirmed(plan)
        upper = watch.upper(plan)
        if aim * (1 - _SLACK) <= ratio and upper <= watch.goal:
            break
        aim = watch.goal * max(_LEAST_AIM, min(_AIM, ratio / upper))
    return plan


def _units(watch: Stopwatch) -> dict[str, int]:
    return {n: g.units for n, g in watch.subject.graph.groups.items()}
