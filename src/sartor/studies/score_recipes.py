"""Scores of many recipes on one network, with as few passes over the data as their options allow."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from sartor.errors import BadInput
from sartor.importance import find_criterion, scores
from sartor.learn import CurveOptions, sensitivity_scores
from sartor.run.decide import plan_for
from sartor.run.per_head_plans import with_fibres
from sartor.run.rank import ranked
from sartor.run.search import improved_scores
from sartor.run.subject import Subject
from sartor.types import Budget, Calibration, Limit, Listener, Plan, Recipe, Scaling, Scores

Note = Callable[[str], None]
Tell = Callable[[str], None]


def scored(
    subject: Subject,
    recipes: Sequence[Recipe],
    *,
    loss: Any = None,
    seed: int = 0,
    note: Note = warnings.warn,
    tell: Tell = lambda text: None,
) -> tuple[dict[str, Scores], dict[str, float]]:
    """What each recipe thinks of every unit, before a budget is named.

    Criteria of recipes that reduce and compare alike are scored in one pass over the calibration data. Gates depend on
    the budget, so a recipe that learns them is not among the results; see `plan_at`.

    Args:
        subject: the network and its data.
        recipes: of different names.
        loss: loss(output, targets), as `sartor.importance.scores` takes it.
        seed: for criteria that draw.
        note: told in a sentence where a criterion had to do without what it reads.
        tell: progress.

    Returns:
        (recipe name -> group -> [units], criteria of a pass, comma-separated -> seconds it took).

    Raises:
        BadInput: two recipes of one name; else as `sartor.importance.scores`.
    """
    names = [r.name for r in recipes]
    if len(set(names)) < len(names):
        raise BadInput(f"recipes: expected different names; got {', '.join(names)}")
    listener = Listener(lambda step, done, text: tell(text), note)
    passes: dict[tuple[Any, ...], list[Recipe]] = {}
    for r in recipes:
        if r.learn != "gates":
            key = (r.reduce, r.normalise, r.per_cost, r.only, r.exclude, r.streams, r.calibration)
            passes.setdefault(key, []).append(r)
    found: dict[str, Scores] = {}
    seconds: dict[str, float] = {}
    for together in passes.values():
        first = together[0]
        criteria = {_label(r.criterion): r.criterion for r in together}
        tell(", ".join(criteria))
        start = time.perf_counter()
        made = scores(
            subject.graph.only(subject.cuttable(first).groups), subject.model, list(criteria.values()),
            calibration=Calibration(list(subject.samples), loss=loss, samples=first.calibration, seed=seed),
            scaling=Scaling(reduce=first.reduce, normalise=first.normalise, per_cost=first.per_cost),
            listener=listener,
        )  # fmt: skip
        found |= {r.name: made[_label(r.criterion)] for r in together}
        seconds[", ".join(criteria)] = time.perf_counter() - start
    for r in recipes:
        if r.learn == "sensitivity":
            start = time.perf_counter()
            found[r.name] = sensitivity_scores(
                subject.cuttable(r), subject.model, found[r.name], subject.inputs,
                options=CurveOptions(per_cost=r.per_cost), listener=listener,
            )  # fmt: skip
            seconds[f"{r.name}: sensitivity"] = time.perf_counter() - start
    return found, seconds


def plan_at(
    subject: Subject,
    recipe: Recipe,
    found: Scores | None,
    share: float,
    *,
    loss: Any = None,
    seed: int = 0,
    tell: Tell = lambda text: None,
) -> Plan:
    """The plan of a recipe with at most this share of the MACs.

    Args:
        subject: the network and its data.
        recipe: how much where; gates are learned and allocations searched here, for this share.
        found: its scores as `scored` gave them; None for a recipe that learns gates.
        share: of the original's MACs, strictly between 0 and 1.
        loss: of the gates.
        seed: of everything drawn.
        tell: progress.

    Raises:
        BudgetNotMet: the share cannot be reached; says the floor.
    """
    graph = subject.cuttable(recipe)
    budget = Budget((Limit("macs", share, True),))
    if recipe.learn == "gates":
        found = ranked(
            graph, subject.model, recipe, budget, subject.original, subject.samples, loss=loss, seed=seed,
            note=warnings.warn, tell=tell,
        )  # fmt: skip
    if found is None:
        raise BadInput(f"recipe {recipe.name!r}: expected its scores; got none")
    if recipe.search:
        found, _ = improved_scores(
            subject.model, graph, found, lambda s: plan_for(graph, s, budget, recipe, subject.original),
            subject.inputs, tries=recipe.search, seed=seed, tell=tell,
        )  # fmt: skip
    plan = plan_for(graph, found, budget, recipe, subject.original)
    return with_fibres(
        graph, subject.model, plan, recipe, subject.samples, loss=loss, seed=seed, note=warnings.warn
    )  # fmt: skip


def _label(criterion: Any) -> str:
    """The key under which `sartor.importance.scores` gives it back."""
    return criterion if isinstance(criterion, str) else find_criterion(criterion).name
