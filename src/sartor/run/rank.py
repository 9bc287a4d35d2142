"""Which units matter: a criterion, and what learns or measures on top of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from sartor.errors import BadInput
from sartor.importance import score
from sartor.learn import CurveOptions, SoftBudget, learn_gates, sensitivity_scores
from sartor.structure import Graph
from sartor.types import Budget, Calibration, Counted, Listener, Recipe, Scaling, Scores


def ranked(
    graph: Graph,
    model: nn.Module,
    recipe: Recipe,
    budget: Budget,
    original: Counted,
    samples: Sequence[Any],
    *,
    loss: Callable[..., Any] | None,
    seed: int,
    note: Callable[[str], None],
    tell: Callable[[str], None],
) -> Scores:
    """One score a unit, as the recipe says.

    Args:
        graph: with the groups that may be cut, and no others.
        samples: calibration pairs (inputs, targets).
        loss: of outputs and targets, for criteria and gates that want one.

    Raises:
        BadInput: the recipe needs calibration data and there are none, or trains gates and the budget says no share of
            the MACs.
    """
    if recipe.learn and not samples:
        raise BadInput(f"recipe {recipe.name!r} needs calibration data; pass train=... or calibration=...")
    listener = Listener(lambda step, done, text: tell(text), note)
    calibration = Calibration(samples or None, loss=loss, samples=recipe.calibration, seed=seed)
    if recipe.learn == "gates":
        return learn_gates(
            graph, model, calibration, SoftBudget(_share(budget, original)), options=recipe.gates, listener=listener
        )
    scaling = Scaling(
        reduce=recipe.reduce, normalise=recipe.normalise, per_cost=0.0 if recipe.learn else recipe.per_cost
    )
    found = score(graph, model, recipe.criterion, calibration=calibration, scaling=scaling, listener=listener)
    if recipe.learn == "sensitivity":
        options = CurveOptions(per_cost=recipe.per_cost)
        return sensitivity_scores(graph, model, found, [x for x, _ in samples], options=options, listener=listener)
    return found


def _share(budget: Budget, original: Counted) -> float:
    """The least share of the MACs that a limit leaves."""
    shares = []
    for x in budget.limits:
        if x.metric in ("macs", "flops"):
            shares.append(x.at_most if x.relative else x.at_most / original.get(x.metric))
        elif x.metric == "latency" and x.relative:
            shares.append(x.at_most)
    if not shares:
        raise BadInput("gates are trained towards a share of the MACs: add a limit on them, such as 'macs<=50%'")
    return min(shares)
