"""Multiply-accumulates, as sums of products of axis sizes.

Conventions: "macs" counts convolutions, linear maps, matrix products and attention: half of what
`torch.utils.flop_counter` counts, since a MAC is two FLOPs. "thop" adds two for every batch-norm element and
(window + 1) for every output of an adaptive average pool, as papers report that used the thop tool.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

from sartor.structure.axes import Axes, Axis, find, leaves, new_size
from sartor.structure.graph import Graph
from sartor.structure.graph_cache import per_graph
from sartor.structure.rules import lookup
from sartor.types import Counts

Convention = Literal["macs", "thop"]
Term = tuple[int, tuple[Axis, ...]]  # a constant factor, and the axes that a cut may change


@per_graph
def terms(graph: Graph, convention: Convention = "macs") -> list[Term]:
    """All products of one convention; computed once per graph."""
    products: list[Term] = []
    for op in graph.ops:
        rule = lookup(op.func) if op.kind else None  # an operator without a kind does not reach the output
        if rule is None:
            continue
        for cost in (rule.macs, rule.extra if convention == "thop" else None):
            products += [term(axes) for axes in cost(op)] if cost else []
    return products


def term(axes: Axes) -> Term:
    """A product of axis sizes; the sizes of frozen axes are multiplied into its factor."""
    roots = [find(a) for a in axes]
    return math.prod(a.size for a in roots if a.frozen), tuple(a for a in roots if not a.frozen)


def macs(graph: Graph, counts: Counts | None = None, *, convention: Convention = "macs") -> int:
    """Multiply-accumulates of one forward of the traced example if `counts[group]` units are kept."""
    return evaluate(terms(graph, convention), graph.leaf_counts(counts or {}))


def evaluate(products: list[Term], kept: Mapping[Axis, int]) -> int:
    """Sum of products, for kept units by leaf."""
    total = 0
    for n, axes in products:
        for a in axes:
            n *= new_size(a, kept)
        total += n
    return total


def unit_macs(graph: Graph, group: str) -> float:
    """MACs that the removal of one unit of a group saves in the whole network."""
    leaf = find(graph.leaves[graph.group(group).name])
    mine = [(n, axes) for n, axes in terms(graph) if any(leaf in leaves(a) for a in axes)]
    return float(evaluate(mine, {}) - evaluate(mine, {leaf: leaf.size - 1}))


def by_group(graph: Graph) -> dict[str, float]:
    """For each group, the share of all MACs whose operators have it as an axis; the shares overlap."""
    everything = terms(graph)
    whole = evaluate(everything, {}) or 1
    share: dict[Axis, float] = {}
    for n, axes in everything:
        part = evaluate([(n, axes)], {}) / whole
        for leaf in {leaf for a in axes for leaf in leaves(a)}:
            share[leaf] = share.get(leaf, 0.0) + part
    return {name: share.get(find(leaf), 0.0) for name, leaf in graph.leaves.items()}
