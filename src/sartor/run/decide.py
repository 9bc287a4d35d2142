"""How much where: from scores and a budget to a plan, counted limits exactly, latency by measuring."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import nn

from sartor.allocate import ALLOCATORS, Cap, Step, fit_latency, floor_counts
from sartor.cost import bytes_of, macs, params, peak_memory
from sartor.errors import BudgetNotMet, NothingToDo
from sartor.measure import Runnable, compare, latency, prepare
from sartor.structure import Graph
from sartor.structure.example import Example
from sartor.surgery import cut
from sartor.types import Budget, Comparison, Counted, Counts, Limit, Plan, Recipe, Scores

_COST: dict[str, Callable[[Graph, Counts], float]] = {
    "macs": macs,
    "flops": lambda g, c: 2 * macs(g, c),
    "params": params,
    "bytes": bytes_of,
    "memory": peak_memory,
}
_AIM = 0.985  # of a latency limit: room for the noise of the next measurement


@dataclass(frozen=True)
class Decision:
    """A plan and how it was found."""

    plan: Plan
    trail: tuple[Step, ...] = ()  # rounds of the latency loop: share of the MACs, measured ratio
    comparisons: tuple[Comparison, ...] = ()  # of the chosen plan, by latency limit


def absolute(limit: Limit, original: Counted) -> float:
    """A counted limit in its own unit."""
    return limit.at_most * original.get(limit.metric) if limit.relative else limit.at_most


def caps(graph: Graph, budget: Budget, original: Counted) -> list[Cap]:
    """The counted limits as the allocators want them."""
    return [
        Cap(lambda c, f=_COST[x.metric]: f(graph, c), absolute(x, original), x.metric)  # type: ignore[misc]
        for x in budget.limits
        if x.metric != "latency"
    ]


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
    if not timed:
        return Decision(_allocate(graph, scores, recipe, counted))
    with ExitStack() as stack:
        originals = [stack.enter_context(prepare(model, example, str(x.target))) for x in timed]
        return _decide_timed(model, graph, scores, recipe, original, example, counted, timed, originals, tell)


def _decide_timed(
    model: nn.Module,
    graph: Graph,
    scores: Scores,
    recipe: Recipe,
    original: Counted,
    example: Example,
    counted: list[Cap],
    timed: Sequence[Limit],
    originals: Sequence[Runnable],
    tell: Callable[[str], None],
) -> Decision:
    measured: dict[int, tuple[Comparison, ...]] = {}
    allowed = [x.at_most if x.relative else x.at_most / latency(b).median_s for x, b in zip(timed, originals)]
    goal = min(min(allowed), 1.0)

    def plan_at(share: float) -> Plan:
        return _allocate(graph, scores, recipe, [*counted, Cap(lambda c: macs(graph, c), share * original.macs, "macs")])

    def measure(plan: Plan) -> float:
        """Latency of the target that is hardest to please, on the scale of `goal`: equal to it is exactly the limit."""
        smaller = cut(model, graph, plan)
        found = []
        for limit, base in zip(timed, originals):
            with prepare(smaller, example, str(limit.target)) as runnable:
                found.append(compare(base, runnable, precision=0.01))
        measured[id(plan)] = tuple(found)
        share = macs(graph, plan.counts()) / original.macs
        tell(f"{share:.1%} of the MACs takes {', '.join(f'{c.ratio:.1%}' for c in found)} of the time")
        return goal * max(c.ratio / a for c, a in zip(found, allowed))

    trail: list[Step] = []
    if counted:
        try:
            plan: Plan | None = _allocate(graph, scores, recipe, counted)
        except NothingToDo:
            plan = None
        if plan is not None:
            trail.append(Step(macs(graph, plan.counts()) / original.macs, measure(plan)))
            if trail[0].ratio <= goal * _AIM:
                return Decision(plan, tuple(trail), measured[id(plan)])
    floor = macs(graph, floor_counts(_units(graph), graph.ties, recipe.floor, recipe.round_to)) / original.macs
    try:
        plan, steps = fit_latency(plan_at, measure, goal * _AIM, tolerance=0.03, rounds=8, lowest=min(floor, 0.999))
    except BudgetNotMet as e:
        asked = " and ".join(f"{x.target} at most {100 * a:.4g} % of the original" for x, a in zip(timed, allowed))
        raise BudgetNotMet(f"latency, asked on {asked}: {e}", e.plan) from e
    return Decision(plan, (*trail, *steps), measured[id(plan)])


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
