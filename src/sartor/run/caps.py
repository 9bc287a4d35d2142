"""Limits of a budget as the caps that allocators take."""

from __future__ import annotations

from collections.abc import Callable

from sartor.allocate import Cap
from sartor.cost import Cost, counted_cost, peak_memory
from sartor.errors import BadInput
from sartor.structure import Graph
from sartor.types import Bounds, Counts


def counted_caps(graph: Graph, bounds: Bounds) -> list[Cap]:
    """The counted limits, each in its own unit.

    Raises:
        BadInput: one limits live weights, and units are cut here.
    """
    if any(x.metric == "weights" for x in bounds.counted):
        raise BadInput(
            "budget 'weights': live weights are counted where a recipe masks single weights; this one removes units. "
            "Limit 'params', or choose a recipe such as 'rigl' or 'one-cycle'"
        )
    return [Cap(_cost(graph, x.metric), bounds.at_most(x), x.metric) for x in bounds.counted]


def macs_cap(graph: Graph, bounds: Bounds, share: float) -> Cap:
    """At most this share of the original's MACs."""
    return Cap(counted_cost(graph, "macs"), share * bounds.original.macs, "macs")


def share_caps(graph: Graph, bounds: Bounds) -> list[Cap]:
    """The counted limits, and every relative limit on latency as if MACs and latency shrank alike."""
    return counted_caps(graph, bounds) + [macs_cap(graph, bounds, x.at_most) for x in bounds.timed if x.relative]


def _cost(graph: Graph, metric: str) -> Cost | Callable[[Counts], float]:
    """What a metric costs; peak memory is a maximum and has no parts."""
    return (lambda c: peak_memory(graph, c)) if metric == "memory" else counted_cost(graph, metric)
