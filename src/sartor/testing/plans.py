"""Plans for tests: random ones by hypothesis, or a share of every group by seed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sartor.structure import Graph
from sartor.types import Plan


def tie_of(graph: Graph, name: str) -> tuple[str, ...]:
    """The groups that must keep as many units as this one, including itself."""
    return next((t for t in graph.ties if name in t), (name,))


def halves(graph: Graph, share: float = 0.5, seed: int = 0) -> Plan:
    """Keep a share of every group, at random, at least one unit; tied groups keep equal counts."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for name, group in graph.groups.items():
        k = max(1, int(group.units * share))
        keep[name] = tuple(sorted(torch.randperm(group.units, generator=generator)[:k].tolist()))
    return Plan(keep, "halves", graph.fingerprint)


def unequal(graph: Graph, seed: int = 0, low: float = 0.3, high: float = 0.9) -> Plan:
    """Keep another random share of every group, within [low, high]; tied groups keep equal counts.

    At least one unit of each group stays and at least one goes.
    """
    generator = torch.Generator().manual_seed(seed)
    counts: dict[str, int] = {}
    keep = {}
    for name, group in graph.groups.items():
        share = low + (high - low) * float(torch.rand((), generator=generator))
        count = max(1, min(group.units - 1, round(group.units * share)))
        for tied in tie_of(graph, name):
            count = counts.setdefault(tied, count)
        keep[name] = tuple(sorted(torch.randperm(group.units, generator=generator)[:count].tolist()))
    return Plan(keep, "unequal", graph.fingerprint)


def rowed(graph: Graph, plan: Plan, seed: int = 0) -> Plan:
    """The plan with random fibres: other units for each row of every cut group that may have fibres."""
    generator = torch.Generator().manual_seed(seed)
    fibres = {
        n: tuple(
            tuple(sorted(torch.randperm(graph.groups[n].units, generator=generator)[: len(plan.keep[n])].tolist()))
            for _ in range(over.size)
        )
        for n, over in graph.fibres.items()
        if n in plan.keep
    }
    return replace(plan, fibres=fibres)


def plans(graph: Graph) -> Any:
    """Hypothesis strategy: any plan that cuts at least one unit and respects ties. Needs at least one group.

    Raises:
        MissingExtra: hypothesis is not installed.
    """
    try:
        from hypothesis import strategies as st
    except ImportError as e:
        from sartor.errors import MissingExtra

        raise MissingExtra("hypothesis", "test", "drawing plans") from e

    @st.composite
    def draw_plan(draw: Any) -> Plan:
        keep: dict[str, tuple[int, ...]] = {}
        chosen = draw(st.lists(st.sampled_from(sorted(graph.groups)), min_size=1, unique=True))
        for name in chosen:
            tied = tie_of(graph, name)
            k = draw(st.integers(1, graph.groups[name].units - 1))
            for other in tied:
                if other not in keep:
                    units = list(range(graph.groups[other].units))
                    keep[other] = tuple(sorted(draw(st.permutations(units))[:k]))
                k = len(keep[tied[0]])
        return Plan(keep, "hypothesis", graph.fingerprint)

    return draw_plan()
