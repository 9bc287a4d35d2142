"""Values that are computed once for each graph and kept beside it: a frozen value holds its fields only."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from sartor.structure.graph import Graph

P = ParamSpec("P")
T = TypeVar("T")


def per_graph(compute: Callable[Concatenate[Graph, P], T]) -> Callable[Concatenate[Graph, P], T]:
    """Compute `compute(graph, ...)` once for each graph and further arguments; forget it when the graph is freed.

    Graphs are distinguished by identity. The further arguments must be hashable. The result must not refer to the graph
    itself: neither of the two would ever be freed.
    """
    known: dict[int, tuple[weakref.ref[Graph], dict[Any, T]]] = {}

    @wraps(compute)
    def cached(graph: Graph, *args: P.args, **kwargs: P.kwargs) -> T:
        entry = known.get(id(graph))
        if entry is None or entry[0]() is not graph:
            place = id(graph)
            entry = known[place] = (weakref.ref(graph, lambda ref: _forget(known, place, ref)), {})
        results = entry[1]
        key = (args, tuple(sorted(kwargs.items())))
        if key not in results:
            results[key] = compute(graph, *args, **kwargs)
        return results[key]

    cached.__dict__["known"] = known
    return cached


def pass_on(cached: Callable[..., Any], graph: Graph, same: Graph) -> None:
    """Let what a function of `per_graph` has computed for one graph hold for another one too.

    Args:
        cached: a function that was made by `per_graph`; its results must be the same for both graphs.
        graph: for which it may have computed something.
        same: for which nothing was computed yet.
    """
    known: dict[int, tuple[weakref.ref[Graph], dict[Any, Any]]] = cached.__dict__["known"]
    entry = known.get(id(graph))
    if entry is not None and entry[0]() is graph:
        key = id(same)
        known[key] = (weakref.ref(same, lambda ref: _forget(known, key, ref)), dict(entry[1]))


def _forget(known: dict[int, tuple[weakref.ref[Graph], dict[Any, Any]]], key: int, ref: weakref.ref[Graph]) -> None:
    if key in known and known[key][0] is ref:
        del known[key]


__all__ = ["pass_on", "per_graph"]
