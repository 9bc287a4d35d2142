"""Which groups a recipe may cut."""

from __future__ import annotations

from sartor.allocate import select
from sartor.errors import BadInput
from sartor.structure import Graph
from sartor.surgery.probe import without_groups
from sartor.types import Recipe


def cuttable(graph: Graph, recipe: Recipe) -> Graph:
    """The graph with the groups that a recipe may cut; the others are frozen, with the reason.

    Raises:
        UnknownName, BadInput: patterns that match nothing, or nothing that is left.
    """
    chosen = set(select(list(graph.groups), recipe.only, recipe.exclude))
    reasons = {n: "excluded by the recipe" for n in graph.groups if n not in chosen}
    if not recipe.streams:
        sums = graph.streams()
        reasons |= {n: "the recipe leaves residual streams whole" for n in graph.groups if n in sums & chosen}
    if graph.groups and len(reasons) == len(graph.groups):
        raise BadInput(
            f"recipe {recipe.name!r} leaves residual streams whole, and there is nothing else to cut; "
            "set its field streams to true"
        )
    return without_groups(graph, reasons) if reasons else graph
