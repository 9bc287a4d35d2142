"""One network fitted to a limit on latency, and what another process then measures."""

from __future__ import annotations

import time
from typing import Any

from torch import nn

from sartor.cost import macs
from sartor.errors import BudgetNotMet
from sartor.measure import compare_afresh, prepare
from sartor.run import stages
from sartor.run.context import DEFAULTS, Context
from sartor.structure import trace
from sartor.structure.example import Example
from sartor.surgery import cut, probe
from sartor.types import Budget, Comparison, Effort, Limit, Plan, Recipe

EFFORT = Effort(sessions=5, precision=0.01, min_seconds=1.0, max_seconds=3.0)


def fit_to_latency(
    model: nn.Module, example: Example, limit: Limit, recipe: Recipe, context: Context = DEFAULTS
) -> dict[str, Any]:
    """Decide what stays of a network so that it meets a limit on latency; nothing is trained.

    Args:
        model: borrowed. Scores come from its weights alone.
        limit: on latency, relative to the original's.
        recipe: its criterion needs no data.
        context: the seed, and the listener.

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
