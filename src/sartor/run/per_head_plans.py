"""Other inner units for every outer one: a plan refined at the same counts, shapes and costs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sartor.importance import AppliesToNoGroup, find_criterion, parse_mixture, score
from sartor.importance.pairs import UNSEEN, paired
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.structure import Graph
from sartor.types import Calibration, Criterion, Gates, Listener, Plan, Recipe, Scaling


def fibred(
    graph: Graph,
    model: nn.Module,
    plan: Plan,
    criterion: Any = "l2",
    *,
    note: Callable[[str], None] = warnings.warn,
    batches: Iterable[Any] | None = None,
    **options: Any,
) -> Plan:
    """The plan in which every group that may is fibred: for each outer unit, the best inner units by a criterion.

    The pairs (outer unit, inner unit) are scored as units of their own. What the criterion reads is what it reads of
    the group, seen per pair; of activations, only the places where one dimension carries both are seen. A criterion
    that asks for gaps or Gram matrices cannot be asked for pairs: then, and where nothing else is left to look at, the
    pairs are ranked by the l2 norm of their weights.

    Args:
        graph: of the model.
        model: borrowed.
        plan: ordinary; its counts stay.
        criterion: a name, a mixture, or a function; see `sartor.importance.scores`.
        note: told in a sentence where l2 had to do.
        batches: (inputs, targets) pairs, for criteria that look at data.
        options: fields of `Calibration` and `Scaling`; a normalisation by MACs and an exponent of cost change nothing.

    Returns:
        The plan with `fibres`; as it is where no group that is cut may be fibred.
    """
    names = [n for n in graph.fibres if len(plan.keep.get(n, ())) not in (0, graph.groups[n].units)]
    if not names:
        return plan
    view = paired(graph, names)
    given = {**options, "per_cost": 0.0}
    if given.get("normalise") == "macs":
        given["normalise"] = "none"
    scaling = Scaling(**{k: given.pop(k) for k in ("reduce", "normalise", "per_cost") if k in given})
    calibration, listener = Calibration(batches, **given), Listener(note=note)
    asked: Any = criterion
    blind = [c.name for c in _parts(criterion) if set(UNSEEN) & set(c.needs)]
    if blind:
        note(f"criterion {blind[0]!r} cannot be asked for pairs of units: l2 says which units each row keeps")
        asked = "l2"
    try:
        found = score(view, model, asked, calibration=calibration, scaling=scaling, listener=listener)
    except AppliesToNoGroup:
        if asked == "l2":
            raise
        note(f"criterion {criterion!r} reads nothing of pairs of units: l2 says which units each row keeps")
        found = score(view, model, "l2", scaling=scaling, listener=listener)
    return replace(plan, fibres={n: _rows(found[n], graph.fibres[n].size, len(plan.keep[n])) for n in names})


def with_fibres(subject: Subject, plan: Plan, recipe: Recipe, context: Context) -> Plan:
    """The plan with other inner units for every head or group, by the recipe's criterion; where gates decide, by l2.

    Where no group that was cut may keep other units, the plan stays as it is and the listener is told.
    """
    how = recipe.score if not isinstance(recipe.score, Gates) else Criterion("l2")
    fine = fibred(
        subject.graph, subject.model, plan, how.criterion, reduce=how.reduce, normalise=how.normalise,
        batches=subject.samples or None, loss=context.judge.loss, samples=recipe.calibration, seed=context.seed,
        note=context.listener.note,
    )  # fmt: skip
    if not fine.fibres:
        context.listener.note(
            "the recipe asks for fibres, and no group that was cut may keep other units in every head or group"
        )
    return fine


def _parts(criterion: Any) -> list[Any]:
    if not isinstance(criterion, str):
        return [find_criterion(criterion)]
    return [find_criterion(n) for t in parse_mixture(criterion) for n in t.names]


def _rows(scores: Tensor, outer: int, keep: int) -> tuple[tuple[int, ...], ...]:
    """The best `keep` of every row; of equal ones the first."""
    ranked = torch.sort(scores.reshape(outer, -1), dim=1, descending=True, stable=True).indices
    return tuple(tuple(sorted(row)) for row in ranked[:, :keep].tolist())


__all__ = ["fibred", "with_fibres"]
