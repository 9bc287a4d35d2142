"""Scores of many recipes on one network with few passes over the data, and plans at a share of the MACs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from sartor.errors import BadInput
from sartor.importance import find_criterion, scores
from sartor.learn import CurveOptions, sensitivity_scores
from sartor.run import stages
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.types import Axes, Budget, Gates, Limit, Plan, Recipe, Scores, Sensitivity


def score_recipes(
    subject: Subject, recipes: Sequence[Recipe], context: Context
) -> tuple[dict[str, Scores], dict[str, float]]:
    """The scores of each recipe, before a budget is named.

    Criteria of recipes that reduce and compare alike are scored in one pass over the calibration data. Gates depend on
    the budget, so a recipe that trains them is not among the results; see `plan_at`.

    Args:
        subject: the network and its calibration data.
        recipes: of different names.
        context: the loss of criteria that need one, the seed, and the listener.

    Returns:
        (recipe name -> group -> [units], criteria of a pass, comma-separated -> seconds it took).

    Raises:
        BadInput: two recipes of one name; else as `sartor.importance.scores`.
    """
    names = [r.name for r in recipes]
    if len(set(names)) < len(names):
        raise BadInput(f"recipes: expected different names; got {', '.join(names)}")
    passes: dict[tuple[Any, ...], list[Recipe]] = {}
    for r in recipes:
        if not isinstance(r.score, Gates):
            key = (r.score.scaling, replace(r.cut, fibres=False) if isinstance(r.cut, Axes) else r.cut, r.calibration)
            passes.setdefault(key, []).append(r)
    by_recipe: dict[str, Scores] = {}
    seconds: dict[str, float] = {}
    listener = context.listener
    for together in passes.values():
        first = together[0]
        assert not isinstance(first.score, Gates)
        criteria = {_label(r.score.criterion): r.score.criterion for r in together}  # type: ignore[union-attr]
        listener.tell(", ".join(criteria))
        start = time.perf_counter()
        by_criterion = scores(
            subject.graph.only(subject.allowed(first).graph.groups), subject.model, list(criteria.values()),
            calibration=subject.calibration(first.calibration, context),
            scaling=first.score.scaling,
            listener=listener,
        )  # fmt: skip
        by_recipe |= {r.name: by_criterion[_label(r.score.criterion)] for r in together}  # type: ignore[union-attr]
        seconds[", ".join(criteria)] = time.perf_counter() - start
    for r in recipes:
        if isinstance(r.score, Sensitivity):
            start = time.perf_counter()
            by_recipe[r.name] = sensitivity_scores(
                subject.allowed(r).graph, subject.model, by_recipe[r.name], subject.inputs,
                options=CurveOptions(per_cost=r.score.per_cost), listener=listener,
            )  # fmt: skip
            seconds[f"{r.name}: sensitivity"] = time.perf_counter() - start
    return by_recipe, seconds


def plan_at(subject: Subject, recipe: Recipe, scores: Scores | None, share: float, context: Context) -> Plan:
    """The plan of a recipe with at most this share of the MACs.

    Args:
        subject: the network and its calibration data.
        recipe: gates are trained and allocations searched here, for this share.
        scores: as `score_recipes` gave them; None for a recipe that trains gates.
        share: of the original's MACs, strictly between 0 and 1.
        context: the loss of the gates, the seed, and the listener.

    Raises:
        BudgetNotMet: the share cannot be reached; gives the lowest that can.
    """
    subject = subject.allowed(recipe)
    bounds = Budget((Limit("macs", share, True),)).against(subject.original)
    if isinstance(recipe.score, Gates):
        scores = stages.score(subject, recipe, bounds, context)
    if scores is None:
        raise BadInput(f"recipe {recipe.name!r}: expected its scores; got none")
    scores, _ = stages.search(subject, recipe, scores, bounds, context)
    return stages.decide(subject, recipe, scores, bounds, context).plan


def _label(criterion: Any) -> str:
    """The key of this criterion in the result of `sartor.importance.scores`."""
    return criterion if isinstance(criterion, str) else find_criterion(criterion).name
