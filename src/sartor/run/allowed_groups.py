"""Which groups a recipe may cut."""

from __future__ import annotations

from sartor.allocate import select
from sartor.errors import BadInput
from sartor.structure import Graph
from sartor.structure.subgraph import without_groups
from sartor.types import Axes, Recipe

CUT_IF_NAMED = "tokens"  # the kind of group that is left whole unless a pattern names it


def allowed_groups(graph: Graph, recipe: Recipe) -> Graph:
    """The graph with the groups that a recipe may cut; the others are frozen, with the reason.

    Raises:
        UnknownName, BadInput: patterns that match nothing, or nothing that is left.
    """
    if not isinstance(recipe.cut, Axes):
        return graph  # no unit goes
    chosen = set(select(graph.groups, recipe.cut.only, recipe.cut.exclude))
    reasons = {n: "not among what is to be cut" for n in graph.groups if n not in chosen}
    if not recipe.cut.only:
        named = f"they are only cut where `cut` names them, as in cut={CUT_IF_NAMED!r}"
        reasons |= {n: named for n in graph.groups if graph.groups[n].kind == CUT_IF_NAMED}
    if not recipe.cut.streams:
        sums = graph.streams()
        reasons |= {n: "the recipe leaves residual streams whole" for n in graph.groups if n in sums & chosen}
    for tied in graph.ties:
        whole = next((n for n in tied if n in reasons), None)
        for n in tied:
            if whole is not None:
                reasons.setdefault(n, f"it must keep as many units as {whole}, which stays whole")
    if graph.groups and len(reasons) == len(graph.groups) and recipe.cut.streams:
        raise BadInput(f"nothing but {CUT_IF_NAMED} can be cut, and {reasons[next(iter(graph.groups))]}")
    if graph.groups and len(reasons) == len(graph.groups):
        raise BadInput(
            f"recipe {recipe.name!r} leaves residual streams whole, and there is nothing else to cut; "
            "set its field cut.streams to true"
        )
    return without_groups(graph, reasons) if reasons else graph
