"""How much where: from scores and a budget to a plan, counted limits exactly, latency by measuring."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from torch import nn

from sartor.allocate import ALLOCATORS, Cap, SearchOptions, Step, fit_latency, floor_counts
from sartor.cost import Cost, counted_cost, macs, peak_memory
from sartor.errors import BadInput, BudgetNotMet, NothingToDo
from sartor.measure import compare_afresh, latency, parse_target, prepare, show_target
from sartor.measure.tables import Predictor
from sartor.run.table_latency import floor_words, on_timed_widths, predictor_for, slowest_words
from sartor.structure import Graph
from sartor.structure.example import Example
from sartor.surgery import cut
from sartor.types import Budget, Comparison, Counted, Counts, Limit, Plan, Recipe, Scores

_AIM = 0.985  # of a latency limit: room for the noise of the next measurement
_ROUND_S = 1.2  # of a session of the search: sessions differ by more than one can tell by staying
_CONFIRM_S = 4.0  # of a session that confirms
_NEAR = 0.1  # of a limit: within it, several sessions are measured
_SESSIONS = 3
_SURE = 0.02  # half the interval of a noisy session that is trusted all the same, as a share
_CORRECTIONS = 2
_SLACK = 0.04  # a plan may be this much faster than what is aimed at
_BY_TABLE = "knapsack"  # the allocation that reads latency from tables
_REHEARSED = {"compile": "eager"}  # it takes long to prepare; the other runs like kernels and is ready at once
_STEPS = (1, 4, 8, 16)  # multiples of units to try on the target: kernels like whole vectors


@dataclass(frozen=True)
class Decision:
    """A plan and how it was found."""

    plan: Plan
    trail: tuple[Step, ...] = ()  # rounds of the latency loop: share of the MACs, measured ratio


def absolute(limit: Limit, original: Counted) -> float:
    """A counted limit in its own unit."""
    return limit.at_most * original.get(limit.metric) if limit.relative else limit.at_most


def caps(graph: Graph, budget: Budget, original: Counted) -> list[Cap]:
    """The counted limits as the allocators want them."""
    return [
        Cap(_cost(graph, x.metric), absolute(x, original), x.metric) for x in budget.limits if x.metric != "latency"
    ]


def _cost(graph: Graph, metric: str) -> Cost | Callable[[Counts], float]:
    """What a metric costs; peak memory is a maximum and has no parts."""
    return (lambda c: peak_memory(graph, c)) if metric == "memory" else counted_cost(graph, metric)


def plan_for(graph: Graph, scores: Scores, budget: Budget, recipe: Recipe, original: Counted) -> Plan:
    """The plan under the counted limits, and under as large a share of the MACs as each relative latency limit says."""
    limits = caps(graph, budget, original)
    for x in budget.limits:
        if x.metric == "latency" and x.relative:
            limits.append(Cap(counted_cost(graph, "macs"), x.at_most * original.macs, "macs"))
    if not limits:
        raise BadInput("search over allocations: expected a counted or a relative limit; got absolute latencies only")
    return _allocate(graph, scores, recipe, limits)


def decide(
    model: nn.Module,
    graph: Graph,
    scores: Scores,
    budget: Budget,
    recipe: Recipe,
    original: Counted,
    example: Example,
    *,
    tell: Callable[[str], None] = lambda text: None,
) -> Decision:
    """The plan that keeps most score within the budget.

    Raises:
        BudgetNotMet: a limit cannot be met; says the floor. `plan` is the smallest plan tried.
        NothingToDo: the original already meets the budget.
    """
    counted = caps(graph, budget, original)
    timed = [x for x in budget.limits if x.metric == "latency"]

    def plan_at(share: float | None, round_to: int) -> Plan:
        cap = [] if share is None else [Cap(counted_cost(graph, "macs"), share * original.macs, "macs")]
        return _allocate(graph, scores, replace(recipe, round_to=round_to), [*counted, *cap])

    if not timed:
        return Decision(plan_at(None, recipe.round_to))
    watch = _Stopwatch(model, graph, example, timed, original, tell)
    if recipe.allocation == _BY_TABLE:
        return _fit_by_table(graph, scores, recipe, watch, counted)
    return _fit_timed(graph, recipe, watch, plan_at, bool(counted))


class _Round(NamedTuple):
    plan: Plan
    ratio: float  # on the scale of the goal
    noisy: str  # how the machine was disturbed meanwhile, in words; "": it was not


class _Stopwatch:
    """Times plans against the original, each once."""

    def __init__(
        self,
        model: nn.Module,
        graph: Graph,
        example: Example,
        limits: Sequence[Limit],
        original: Counted,
        tell: Callable[[str], None],
    ):
        self.model, self.graph, self.example, self.limits = model, graph, example, limits
        self.whole, self.tell = original.macs, tell
        self.allowed = [x.at_most if x.relative else x.at_most / self._seconds(x) for x in limits]
        self.goal = min(self.allowed)  # the ratio that is exactly the limit
        self.seen: list[_Round] = []
        self.sessions = _SESSIONS  # near the limit
        self.longest = _ROUND_S
        self.predictors: list[Predictor] = []  # one a limit, where latency is read from tables

    def rehearsal(self) -> _Stopwatch | None:
        """The same limits where networks are ready at once and much the same kernels run; None: these are as quick."""
        targets = [parse_target(str(x.target)) for x in self.limits]
        quick = [show_target(replace(t, backend=_REHEARSED.get(t.backend, t.backend))) for t in targets]
        if quick == [show_target(t) for t in targets]:
            return None
        other = copy.copy(self)
        other.limits = [replace(x, target=name) for x, name in zip(self.limits, quick)]
        other.seen, other.sessions = [], 1  # it only says where to begin
        other.tell = lambda text: self.tell(f"rehearsed on {', '.join(quick)}: {text}")
        return other

    def predicted(self, counts: Counts) -> float | None:
        """The ratio that tables say, on the scale of `goal`."""
        if not self.predictors:
            return None
        return self.goal * max(p.ratio(counts) / a for p, a in zip(self.predictors, self.allowed))

    def share(self, plan: Plan) -> float:
        """MACs left, as a share of the original's."""
        return macs(self.graph, plan.counts()) / self.whole

    def ratio(self, plan: Plan) -> float:
        """Latency on the target that is hardest to please, on the scale of `goal`."""
        for known in self.seen:
            if known.plan.keep == plan.keep:
                return known.ratio
        smaller = cut(self.model, self.graph, plan)
        noisy: list[str] = []
        found = [self._compared(smaller, x, noisy) for x in self.limits]
        said = self.predicted(plan.counts())
        self.tell(
            f"{self.share(plan):.1%} of the MACs takes {', '.join(f'{c:.1%}' for c in found)} of the time"
            + (f", {said:.1%} was predicted" if said is not None else "")
        )
        ratio = self.goal * max(c / a for c, a in zip(found, self.allowed))
        self.seen.append(_Round(plan, ratio, "; ".join(dict.fromkeys(noisy))))
        return ratio

    def again(self, plan: Plan) -> float:
        """The ratio of a plan seen before, from longer sessions; the old ones, which made it be chosen, count less."""
        old = self.ratio(plan)
        self.seen = [row for row in self.seen if row.plan.keep != plan.keep]
        self.longest = _CONFIRM_S
        try:
            new = self.ratio(plan)
        finally:
            self.longest = _ROUND_S
        self.seen[-1] = self.seen[-1]._replace(ratio=(old + 3 * new) / 4)
        return self.seen[-1].ratio

    def _compared(self, smaller: nn.Module, limit: Limit, noisy: list[str]) -> float:
        """Where the limit is near, or a noisy machine left the ratio open, one session does not tell on which side.

        Where both, nor do three. `noisy` gets in words how the machine was disturbed.
        """
        found: list[Comparison] = []
        allowed = self.allowed[self.limits.index(limit)]

        def measured(sessions: int) -> float:
            found.append(
                compare_afresh(
                    lambda: prepare(self.model, self.example, str(limit.target)),
                    lambda: prepare(smaller, self.example, str(limit.target)),
                    sessions=sessions, precision=0.01, min_seconds=0.5, max_seconds=self.longest,
                )
            )  # fmt: skip
            return statistics.median(r for c in found for r in c.ratios)

        ratio = measured(1)
        near = lambda: abs(ratio / allowed - 1) <= _NEAR
        if self.sessions > 1 and (near() or _unsure(found[0])):
            ratio = measured(self.sessions - 1)
            if near() and all(map(_unsure, found)):
                ratio = measured(self.sessions)
        said = next((c.noisy for c in reversed(found) if c.noisy), "")
        if said:
            noisy.append(said)
            self.tell(f"the machine was busy: {said}; measured on")
        return ratio

    def blamed(self, plan: Plan) -> str:
        """Which operators make the time of a plan, on the target that is hardest to please."""
        hardest = self.limits[self.allowed.index(self.goal)]
        return slowest_words(self.model, self.example, str(hardest.target), plan.counts())

    def _seconds(self, limit: Limit) -> float:
        with prepare(self.model, self.example, str(limit.target)) as runnable:
            return latency(runnable).median_s

    def decision(self, plan: Plan) -> Decision:
        """The plan, with every round on the way to it."""
        trail = (Step(self.share(x.plan), x.ratio, self.predicted(x.plan.counts()), x.noisy) for x in self.seen)
        return Decision(plan, tuple(trail))


def _fit_timed(
    graph: Graph, recipe: Recipe, watch: _Stopwatch, plan_at: Callable[[float | None, int], Plan], counted: bool
) -> Decision:
    """Which multiples of units this target rewards, then how many MACs it can have.

    Where every plan takes long to prepare, both are asked of a rehearsal first, and the target itself confirms.
    """
    goal = watch.goal
    scout = watch.rehearsal() or watch
    if goal >= 1:
        raise NothingToDo("the original already meets every latency limit")
    tried: dict[int, float] = {}
    for step in dict.fromkeys(recipe.round_to * k for k in _STEPS):
        if step > 1 and step >= max((g.units for g in graph.groups.values()), default=1):
            continue
        try:
            tried[step] = scout.ratio(plan_at(goal, step))
        except BudgetNotMet:  # too coarse to reach that share
            continue
    missed: list[BudgetNotMet] = []
    for step in sorted(tried, key=lambda k: tried[k]) or [recipe.round_to]:
        if counted:
            try:
                plan = plan_at(None, step)
                if plan.keep == plan_at(goal, step).keep and watch.ratio(plan) <= goal * _AIM:
                    return watch.decision(plan)  # the counted limits alone make it fast enough
            except NothingToDo:
                pass
        floor = macs(graph, floor_counts(_units(graph), graph.ties, recipe.floor, step)) / watch.whole

        def stepped(share: float, k: int = step) -> Plan:
            return plan_at(share, k)

        try:
            first = None if scout is watch else _rehearsed_share(scout, stepped, floor)
            return watch.decision(_closed_loop(watch, stepped, floor, first))
        except BudgetNotMet as e:  # steps this coarse leave too much; finer ones reach further
            missed.append(e)
    asked = " and ".join(
        f"{x.target} at most {100 * a:.4g} % of the original" for x, a in zip(watch.limits, watch.allowed)
    )
    least = min(watch.seen, key=lambda row: row.ratio, default=None)
    if least is None:
        raise missed[-1]
    raise BudgetNotMet(
        f"latency, asked on {asked}: the fastest network measured takes {100 * least.ratio:.4g} % of the time with "
        f"{100 * watch.share(least.plan):.4g} % of the MACs. {watch.blamed(least.plan)}. "
        "Allow more, lower the recipe's floor, or cut more groups",
        least.plan,
    ) from missed[-1]


def _fit_by_table(graph: Graph, scores: Scores, recipe: Recipe, watch: _Stopwatch, counted: Sequence[Cap]) -> Decision:
    """Plan on what tables say, measure the plan, and move the limit of the plan by what the tables were wrong."""
    if watch.goal >= 1:
        raise NothingToDo("the original already meets every latency limit")
    watch.predictors = [
        predictor_for(watch.model, graph, watch.example, str(x.target), tell=watch.tell) for x in watch.limits
    ]

    def plan_at(share: float) -> Plan:
        def plan() -> Plan:
            timed = [
                Cap(p.cost(), share * p.original * a / watch.goal, "latency")
                for p, a in zip(watch.predictors, watch.allowed)
            ]
            return _allocate(graph, scores, recipe, [*counted, *timed])

        return on_timed_widths(plan, watch.predictors, watch.tell)

    least = floor_counts(_units(graph), graph.ties, recipe.floor, recipe.round_to)
    floor = watch.predicted(least) or 0.0
    try:
        return watch.decision(_closed_loop(watch, plan_at, floor))
    except BudgetNotMet as e:
        raise BudgetNotMet(f"{e}. {' '.join(floor_words(p, least) for p in watch.predictors)}", e.plan) from e


def _rehearsed_share(scout: _Stopwatch, plan_at: Callable[[float], Plan], floor: float) -> float | None:
    """Where to begin; None: the rehearsal cannot meet the limit, which does not yet say that the target cannot."""
    try:
        plan, _ = fit_latency(
            plan_at, scout.ratio, scout.goal * _AIM, SearchOptions(tolerance=_NEAR, rounds=4, lowest=min(floor, 0.999))
        )
    except BudgetNotMet:
        return None
    share = scout.share(plan)
    return share if share < 1 else None


def _closed_loop(watch: _Stopwatch, plan_at: Callable[[float], Plan], floor: float, first: float | None = None) -> Plan:
    """Search, measure what was found once more, and search on from there while it is beside the limit.

    What a search picks is the plan whose measurement came out best, so measured again it tends to be a little slower.
    """
    options = SearchOptions(tolerance=_SLACK, rounds=8, lowest=min(floor, 0.999), first=first)
    for left in reversed(range(_CORRECTIONS + 1)):
        plan, _ = fit_latency(plan_at, watch.ratio, watch.goal * _AIM, options)
        if not left or watch.goal * _AIM * (1 - _SLACK) <= watch.again(plan) <= watch.goal:
            break
    return plan


def _unsure(measured: Comparison) -> bool:
    """The machine was noisy, and what it left of the ratio is no answer."""
    low, high = measured.interval
    return bool(measured.noisy) and (high - low) / 2 > _SURE * measured.ratio


def _units(graph: Graph) -> dict[str, int]:
    return {n: g.units for n, g in graph.groups.items()}


def _allocate(graph: Graph, scores: Scores, recipe: Recipe, limits: list[Cap]) -> Plan:
    units = {n: u for n, u in _units(graph).items() if n in scores}
    try:
        keep = ALLOCATORS[recipe.allocation].value(
            scores, limits, units, ties=graph.ties, floor=recipe.floor, round_to=recipe.round_to
        )
    except BudgetNotMet as e:
        if isinstance(e.plan, dict):
            e.plan = Plan(e.plan, recipe.name, graph.fingerprint)
        raise
    return Plan(keep, recipe.name, graph.fingerprint)
