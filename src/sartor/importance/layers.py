"""Which units are given together to a criterion that compares units: those of a whole layer.

A group is not always a layer. Where a shortcut is padded with zero channels, or two branches are concatenated, the
filters of one layer fall into several groups, which may be cut independently, while a paper that measures a filter
against "the other filters of its layer" means all of them. Filters that cannot be cut belong to the layer as well.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sartor.activations.sites import sites
from sartor.structure import Graph, Site
from sartor.structure.axes import Axis, find, leaves, positions
from sartor.structure.calls import Value
from sartor.types import Among, Member

Row = tuple[int, ...]  # the positions of one unit


@dataclass(frozen=True)
class Place:
    """Where activations of units are read, and whose they are."""

    site: Site  # with the positions of every unit that is shown
    takes: tuple[tuple[str, int, Tensor], ...]
    # (group, number of the place among those of the group, which of the units shown are the group's, in its order)


def places(graph: Graph, at: str, among: Among) -> list[Place]:
    """The places where activations are read, each with the units that are shown together.

    Args:
        graph: with the groups that are scored.
        at: "read" or "written", see `sartor.activations.sites.sites`.
        among: "group": one place for every group and operator. "layer": one place for all groups of one layer at one
            operator, with the filters of the layer that no group holds. A layer's units at a place are those that the
            operators which write the group write; so what a concatenation joins are several layers.
    """
    single = [
        Place(site, ((name, i, torch.arange(len(site.positions))),))
        for name in graph.groups
        for i, site in enumerate(sites(graph, name, at))
    ]
    if among == "group":
        return single
    joined: dict[tuple[int, str, int, frozenset[Row]], Place] = {}
    for place in single:
        name, i, _ = place.takes[0]
        site, leaf = place.site, find(graph.leaves[name])
        op = graph.ops[site.op]
        value = op.outputs[0] if site.slot == "out" else next(a for a in op.args if isinstance(a, Value))
        shown = _beside(value.axes[site.dim], leaf, site.positions, _written_with(graph, name))
        key = (site.op, site.slot, site.dim, frozenset(map(tuple, shown.tolist())))
        if key not in joined:
            joined[key] = Place(replace(site, positions=shown), ())
        rows = {tuple(p): row for row, p in enumerate(joined[key].site.positions.tolist())}
        mine = torch.tensor([rows[tuple(p)] for p in site.positions.tolist()])
        joined[key] = Place(joined[key].site, (*joined[key].takes, (name, i, mine)))
    return list(joined.values())


def layer_rows(graph: Graph, group: str, member: Member) -> Tensor | None:
    """Positions [rows, times] of all units of a tensor along the dimension that carries a group's, the group's first.

    None where the units of the group are not those of one dimension (pairs of an outer and an inner unit).
    """
    axis, leaf = graph.tensors[member.tensor].axes[member.dim], find(graph.leaves[group])
    if graph.groups[group].units != leaf.size:
        return None
    return _beside(axis, leaf, positions(axis, leaf), leaves(axis))


def _written_with(graph: Graph, group: str) -> list[Axis]:
    """The leaves of the tensors that write a group, along the dimension that carries it."""
    written = [m for m in graph.groups[group].members if m.role == "out"]
    return [leaf for m in written for leaf in leaves(graph.tensors[m.tensor].axes[m.dim])]


def _beside(axis: Axis, leaf: Axis, own: Tensor, layer: Collection[Axis]) -> Tensor:
    """The group's positions, then those of other units of the layer that as many positions carry and none in common."""
    shown = [own]
    if own.shape[0] != leaf.size:  # pairs of units
        return own
    taken = set(own.flatten().tolist())
    for other in dict.fromkeys(map(find, layer)):
        where = own[:0] if other is leaf else positions(axis, other)
        if where.shape[1] == own.shape[1] and not taken & set(where.flatten().tolist()):
            taken |= set(where.flatten().tolist())
            shown.append(where)
    return torch.cat(shown)
