"""A graph with fewer groups, and ties that share groups."""

from __future__ import annotations

from dataclasses import replace

from sartor.structure.graph import Graph
from sartor.types import Frozen


def without_groups(graph: Graph, reasons: dict[str, str], ties: list[set[str]] | None = None) -> Graph:
    """The graph with some groups frozen; `reasons` are sentences by group name."""
    kept = {n: g for n, g in graph.groups.items() if n not in reasons}
    frozen = list(graph.frozen)
    for name, reason in reasons.items():
        frozen += [Frozen(f"{m.tensor}:{m.dim}", graph.groups[name].units, reason) for m in graph.groups[name].members]
    left = [tuple(n for n in graph.groups if n in t and n in kept) for t in (ties if ties is not None else graph.ties)]
    return replace(
        graph,
        groups=kept,
        leaves={n: a for n, a in graph.leaves.items() if n in kept},
        frozen=tuple(frozen),
        ties=tuple(dict.fromkeys(joined([t for t in left if len(t) > 1]))),
    )


def joined(ties: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Ties that share a group, joined to one tie."""
    out: list[tuple[str, ...]] = []
    for t in ties:
        for other in [o for o in out if set(o) & set(t)]:
            out.remove(other)
            t = tuple(dict.fromkeys(other + t))
        out.append(t)
    return out


__all__ = ["joined", "without_groups"]
