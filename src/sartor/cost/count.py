"""Parameters, bytes, and all counted costs at once."""

from __future__ import annotations

from sartor.cost.macs import macs
from sartor.cost.memory import peak_memory
from sartor.structure.calls import Value
from sartor.structure.graph import Graph
from sartor.types import Counted, Counts


def _distinct(graph: Graph) -> list[Value]:
    return list({id(v): v for v in graph.tensors.values()}.values())


def params(graph: Graph, counts: Counts | None = None) -> int:
    """Number of elements of all parameters, tied ones once."""
    kept = graph.leaf_counts(counts or {})
    return sum(v.numel(kept) for v in _distinct(graph) if v.origin == "parameter")


def bytes_of(graph: Graph, counts: Counts | None = None) -> int:
    """Bytes of all parameters and buffers in memory, tied ones once."""
    kept = graph.leaf_counts(counts or {})
    return sum(v.numel(kept) * v.dtype.itemsize for v in _distinct(graph))


def count(graph: Graph, counts: Counts | None = None) -> Counted:
    """All counted costs if `counts[group]` units are kept; groups not named are whole."""
    counts = counts or {}
    return Counted(macs(graph, counts), params(graph, counts), bytes_of(graph, counts), peak_memory(graph, counts))
