"""One network fitted to a limit on latency, and what another process then measures."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import nn

from sartor.cost import count, macs
from sartor.errors import BudgetNotMet
from sartor.measure import compare_afresh, prepare
from sartor.run.cuttable import cuttable
from sartor.run.decide import decide
from sartor.run.rank import ranked
from sartor.structure import trace
from sartor.structure.example import Example
from sartor.surgery import cut, probe
from sartor.types import Budget, Comparison, Effort, Limit, Plan, Recipe

_EFFORT = Effort(sessions=5, precision=0.01, min_seconds=1.0, max_seconds=3.0)


def fit_to_latency(
    model: nn.Module,
    example: Example,
    target: str,
    limit: float,
    recipe: Recipe,
    *,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Decide what stays of a network so that it takes at most `limit` of its time on a target; nothing is trained.

    Args:
        model: borrowed. Scores come from its weights alone.
        limit: share of the original's latency, in (0, 1).
        recipe: its criterion wants no data.

    Returns:
        {"plan" (None: the limit cannot be met), "floor" (what was said then, else ""), "macs" (share left), "ratio" (as
        the loop measured it), "predicted" (by tables, else None), "rounds", "noisy_rounds", "seconds"}.
    """
    start = time.perf_counter()
    graph = probe(model, trace(model, example))
    some = cuttable(graph, recipe)
    original = count(graph)
    budget = Budget((Limit("latency", limit, True, target),))
    scores = ranked(
        some, model, recipe, budget, original, (), loss=None, seed=seed, note=lambda text: None, tell=tell
    )  # fmt: skip
    row: dict[str, Any] = {"plan": None, "floor": "", "macs": None, "ratio": None, "predicted": None}
    try:
        found = decide(model, some, scores, budget, recipe, original, example, tell=tell)
    except BudgetNotMet as e:
        return {**row, "floor": str(e), "rounds": 0, "noisy_rounds": 0, "seconds": time.perf_counter() - start}
    share = macs(graph, found.plan.counts()) / original.macs
    last = next((s for s in reversed(found.trail) if abs(s.macs_share - share) < 1e-9), None)
    row |= {"plan": found.plan, "macs": share}
    if last is not None:
        row |= {"ratio": last.ratio, "predicted": last.predicted}
    noisy = sum(bool(s.noisy) for s in found.trail)
    return {**row, "rounds": len(found.trail), "noisy_rounds": noisy, "seconds": time.perf_counter() - start}


def measured_again(model: nn.Module, example: Example, target: str, plan: Plan, *, sessions: int = 5) -> Comparison:
    """The cut network against the original, in turns, in several sessions."""
    graph = probe(model, trace(model, example))
    smaller = cut(model, graph, plan)
    return compare_afresh(
        lambda: prepare(model, example, target), lambda: prepare(smaller, example, target),
        replace(_EFFORT, sessions=sessions),
    )  # fmt: skip
