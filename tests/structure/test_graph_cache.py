"""Values that are computed once for each graph, and freed with it."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import nn

from sartor.structure import Graph, trace
from sartor.structure.graph_cache import per_graph


def graph() -> Graph:
    return trace(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(2, 3))


def test_a_value_is_computed_once_for_each_graph_and_each_argument():
    calls = []

    @per_graph
    def units(graph: Graph, factor: int = 1) -> int:
        calls.append(factor)
        return factor * sum(g.units for g in graph.groups.values())

    one, other = graph(), graph()
    assert [units(one), units(one), units(other), units(one, 2), units(one, 2)] == [4, 4, 4, 8, 8]
    assert calls == [1, 1, 2]


def test_values_go_with_their_graph_and_a_graph_holds_its_fields_only():
    @per_graph
    def value(graph: Graph) -> list[int]:
        return [graph.groups["0"].units]

    one = graph()
    fields = set(vars(one))
    value(one)
    assert set(vars(one)) == fields
    gone = weakref.ref(one)
    kept = value.__closure__
    assert kept is not None
    known = next(c.cell_contents for c in kept if isinstance(c.cell_contents, dict))
    assert len(known) == 1
    del one
    gc.collect()
    assert gone() is None and not known
