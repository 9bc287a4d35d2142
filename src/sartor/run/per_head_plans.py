"""Other inner units for every outer one: a plan refined at the same counts, shapes and costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sartor.importance import AppliesToNoGroup, find_criterion, parse_mixture, score
from sartor.importance.pairs import UNSEEN, paired
from sartor.importance.score import MEANS, NO_DATA
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.types import WARNINGS, Calibration, Criterion, Gates, Listener, Plan, Recipe, Scaling
from sartor.types.recipe import Function


def per_head_plan(
    subject: Subject,
    plan: Plan,
    criterion: str | Function = "l2",
    *,
    calibration: Calibration = NO_DATA,
    scaling: Scaling = MEANS,
    listener: Listener = WARNINGS,
) -> Plan:
    """The plan in which every group that allows it keeps, for each outer unit, the best inner units by a criterion.

    The pairs (outer unit, inner unit) are scored as units of their own. A criterion reads of a pair what it reads of a
    group; of activations, only the places where one dimension carries both are seen. Criteria that silence units or
    read Gram matrices cannot score pairs: then, and where the criterion reads nothing else of a pair, the l2 norm of
    its weights ranks them.

    Args:
        subject: the network.
        plan: without fibres; its counts stay.
        criterion: a name, a mixture, or a function; see `sartor.importance.scores`.
        calibration: for criteria that read data.
        scaling: a normalisation by MACs and an exponent of cost change nothing within a group and are ignored.
        listener: gets a note where l2 was used in place of the criterion.

    Returns:
        The plan with `fibres`; as it is where no group that is cut allows them.
    """
    graph, model = subject.graph, subject.model
    names = [n for n in graph.fibres if len(plan.keep.get(n, ())) not in (0, graph.groups[n].units)]
    if not names:
        return plan
    pairs = paired(graph, names)
    scaling = replace(scaling, per_cost=0.0, normalise="none" if scaling.normalise == "macs" else scaling.normalise)
    chosen: str | Function = criterion
    unusable = [c.name for c in _parts(criterion) if set(UNSEEN) & set(c.needs)]
    if unusable:
        listener.note(f"criterion {unusable[0]!r} cannot be asked for pairs of units: l2 ranks the units of each row")
        chosen = "l2"
    try:
        scores = score(pairs, model, chosen, calibration=calibration, scaling=scaling, listener=listener)
    except AppliesToNoGroup:
        if chosen == "l2":
            raise
        listener.note(f"criterion {criterion!r} reads nothing of pairs of units: l2 ranks the units of each row")
        scores = score(pairs, model, "l2", scaling=scaling, listener=listener)
    return replace(plan, fibres={n: _rows(scores[n], graph.fibres[n].size, len(plan.keep[n])) for n in names})


def with_fibres(subject: Subject, plan: Plan, recipe: Recipe, context: Context) -> Plan:
    """The plan with other inner units for every head or group, by the recipe's criterion; where gates decide, by l2.

    Where no group that was cut allows it, the plan stays as it is and the listener gets a note.
    """
    how = recipe.score if not isinstance(recipe.score, Gates) else Criterion("l2")
    fine = per_head_plan(
        subject, plan, how.criterion, calibration=subject.calibration(recipe.calibration, context),
        scaling=how.scaling, listener=context.listener,
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


__all__ = ["per_head_plan", "with_fibres"]
