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

            def forget(ref: weakref.ref[Graph], key: int = id(graph)) -> None:
                if key in known and known[key][0] is ref:
                    del known[key]

            entry = known[id(graph)] = (weakref.ref(graph, forget), {})
        results = entry[1]
        key = (args, tuple(sorted(kwargs.items())))
        if key not in results:
            results[key] = compute(graph, *args, **kwargs)
        return results[key]

    return cached


__all__ = ["per_graph"]
