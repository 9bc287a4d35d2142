"""The graph of a model: operator calls with solved axes, the groups that can be cut, the frozen axes with reasons."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sartor.errors import BadInput, UnknownName
from sartor.structure.axes import Axis, find, new_size, positions
from sartor.structure.calls import Op, Value
from sartor.structure.fibres import Lines, Rows, bases, indices, lines, orders, rows_of
from sartor.structure.masks import Masks
from sartor.types import Counts, Frozen, Group, Member, Plan

_SUMS = ("add", "sub")


@dataclass(frozen=True)
class Site:
    """An activation that carries the units of a group: the first argument of an operator, or its result."""

    op: int
    slot: str  # "in0" or "out"
    dim: int  # counted from the front
    positions: Tensor  # [units, times]


@dataclass(frozen=True)
class Graph:
    """The result of `trace`. Sizes and slices of any plan follow from it without running the model."""

    ops: tuple[Op, ...]
    tensors: Mapping[str, Value]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    groups: Mapping[str, Group]
    leaves: Mapping[str, Axis]  # group name -> its leaf
    frozen: tuple[Frozen, ...]
    ties: tuple[tuple[str, ...], ...]  # groups that must keep equal counts
    fingerprint: str
    example: Any = None  # the inputs it was traced with; on meta unless the forward needed real values
    holders: Mapping[tuple[str, str, Any], int | None] = field(default_factory=dict)
    # (module path, attribute, number) -> number of the claim that holds (see `surgery.attributes`); None: none
    training: Graph | None = None  # the forward in training mode, if it uses parameters that evaluation does not use
    rewritten: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    # module path -> what its forward no longer takes once it is rewritten, as sentences; set by `surgery.probe`
    variants: tuple[Graph, ...] = ()  # the forward on other inputs, where it calls other operators
    branches: tuple[Graph, ...] = ()  # the forward with one decision turned round; see `recorder.record_branches`

    @property
    def every_op(self) -> tuple[Op, ...]:
        """The operators, followed by those of the other recorded forwards."""
        return self.ops + tuple(op for other in self.others for op in other.ops)

    @property
    def others(self) -> tuple[Graph, ...]:
        """The other recorded forwards: that in training mode, those on other inputs, then the branches."""
        return (*(() if self.training is None else (self.training,)), *self.variants, *self.branches)

    def group(self, name: str) -> Group:
        """One group by name."""
        try:
            return self.groups[name]
        except KeyError:
            raise UnknownName("group", name, self.groups) from None

    def only(self, groups: Iterable[str]) -> Graph:
        """The same graph with these groups alone: what scores and gates look at. The others are not frozen.

        Raises:
            UnknownName: no such group.
        """
        names = [self.group(n).name for n in groups]
        return replace(self, groups={n: self.groups[n] for n in names}, leaves={n: self.leaves[n] for n in names})

    def leaf_counts(self, counts: Counts) -> dict[Axis, int]:
        """Kept units by leaf, from kept units by group."""
        return {find(self.leaves[self.group(n).name]): int(k) for n, k in counts.items()}

    def shapes(self, counts: Counts) -> dict[str, tuple[int, ...]]:
        """Shape of every parameter and buffer once `counts[group]` units stay."""
        kept = self.leaf_counts(counts)
        return {name: tuple(new_size(a, kept) for a in v.axes) for name, v in self.tensors.items()}

    @cached_property
    def fibres(self) -> dict[str, Axis]:
        """Group -> the leaf for every unit of which it may keep other units; see `sartor.structure.fibres`."""
        over = bases(self.ops, self.tensors.values(), self.leaves.values())
        return {n: over[find(a)] for n, a in self.leaves.items() if find(a) in over}

    def resolve(self, plan: Plan | Resolved) -> Resolved:
        """The plan checked against this graph, with the masks and orders that follow from it.

        A plan that was resolved on this graph is returned as it is, so a function may accept either of the two.

        Raises:
            BadInput: the plan was made for another graph; an index lies outside its group; tied groups keep different
                counts; it has fibres for a group that cannot have them; or it removes blocks or sets number formats.
        """
        if isinstance(plan, Resolved):
            return plan if plan.graph is self else self.resolve(plan.plan)
        if plan.fingerprint != self.fingerprint:
            raise BadInput(
                f"plan: made for the graph {plan.fingerprint[:12]}, this model's graph is {self.fingerprint[:12]}; "
                "trace the model it was made for"
            )
        if plan.removed_blocks or plan.number_formats:
            field = "removed_blocks" if plan.removed_blocks else "number_formats"
            raise BadInput(f"plan, {field}: this version cannot carry them out; leave the field out")
        for name, order in plan.ranking.items():
            if len(order) != self.group(name).units:
                raise BadInput(
                    f"plan, ranking of {name!r}: expected all {self.group(name).units} units; got {len(order)}"
                )
        masks: dict[Axis, Tensor] = {}
        for name, kept in plan.keep.items():
            units = self.group(name).units
            if kept[-1] >= units:
                raise BadInput(f"plan, group {name!r}: kept indices must lie within [0, {units}); got {kept[-1]}")
            if len(kept) < units:
                mask = torch.zeros(units, dtype=torch.bool)
                mask[list(kept)] = True
                masks[find(self.leaves[name])] = mask
        for tied in self.ties:
            counts = {n: len(plan.keep[n]) if n in plan.keep else self.groups[n].units for n in tied}
            if len(set(counts.values())) > 1:
                shares = ", ".join(f"{n!r} keeps {k}" for n, k in counts.items())
                raise BadInput(
                    f"plan: {shares}; these groups are tied (one number states the sizes of all), so they must keep "
                    "equal counts. `graph.ties` lists the ties of a graph; keep as many units of each group of a tie"
                )
        return Resolved(self, plan, Masks(masks), {name: self._order(plan, name) for name in plan.fibres})

    def _order(self, plan: Plan, name: str) -> Tensor:
        """[units of the outer leaf, units]: the order in which each row's kept units come to the places of `keep`."""
        rows, units = plan.fibres[name], self.group(name).units
        if name not in self.fibres:
            able = ", ".join(list(self.fibres)[:4]) or "none"
            raise BadInput(
                f"plan, fibres of {name!r}: some tensor carries these units without an outer axis, so every row must "
                f"keep the same units; groups that may have fibres: {able}. Leave the rows out"
            )
        outer = self.fibres[name].size
        if len(rows) != outer:
            raise BadInput(f"plan, fibres of {name!r}: expected {outer} rows of kept indices; got {len(rows)}")
        largest = max(row[-1] for row in rows)
        if largest >= units:
            raise BadInput(f"plan, fibres of {name!r}: kept indices must lie within [0, {units}); got {largest}")
        return orders(plan.keep[name], rows, units)

    def positions(self, group: str, member: Member) -> Tensor:
        """Indices of each unit along the member's dimension, int64 [units, times]."""
        return positions(self.tensors[member.tensor].axes[member.dim], self.leaves[group])

    def unit_view(self, group: str, member: Member, tensor: Tensor) -> Tensor:
        """Everything of a member's tensor (or its gradient) that belongs to each unit: [units, rest]."""
        return _per_unit(tensor, member.dim, self.positions(group, member))

    def read_view(self, group: str, value: Value, tensor: Tensor) -> Tensor | None:
        """Everything in the last dimension that carries the units: [units, rest]; None if no dimension does."""
        for d in reversed(range(value.ndim)):  # the dimension that is read comes after the one that is written
            where = positions(value.axes[d], self.leaves[group])
            if where.shape[1]:
                return _per_unit(tensor, d, where)
        return None

    def sites(self, group: str) -> list[Site]:
        """Where activations carry the units: inputs of operators that sum over them, else results of their writers."""
        self.group(group)
        reads, writes = self._sites[find(self.leaves[group])]
        return reads or writes

    def site_view(self, site: Site, tensor: Tensor) -> Tensor:
        """Everything of an activation that belongs to each unit: [units, rest]."""
        return _per_unit(tensor, site.dim, site.positions)

    def streams(self) -> set[str]:
        """Groups whose units are carried by a sum of two activations: the channels of residual streams."""
        names = {find(leaf): name for name, leaf in self.leaves.items()}
        found: set[str] = set()
        for op in self.ops:
            terms = [a for a in op.args[:2] if isinstance(a, Value) and a.name is None]
            if op.live and op.name in _SUMS and len(terms) == 2:
                sides = [{leaf for a in t.axes for leaf in _cut_leaves(a)} for t in terms]
                found |= {names[leaf] for leaf in sides[0] & sides[1] if leaf in names}
        return found

    @cached_property
    def _sites(self) -> dict[Axis, tuple[list[Site], list[Site]]]:
        return self._sites_of(self.leaves.values())

    def _sites_of(self, leaves: Iterable[Axis]) -> dict[Axis, tuple[list[Site], list[Site]]]:
        """Leaf -> (sites that read it, sites that write it)."""
        table: dict[Axis, tuple[list[Site], list[Site]]] = {find(a): ([], []) for a in leaves}
        for op in self.ops:
            if op.live and op.kind in ("conv", "linear", "matmul", "rnn"):
                _add_sites(table, op)
        return table

    def summary(self) -> str:
        """One line."""
        return f"{len(self.ops)} operators, {len(self.groups)} groups that can be cut, {len(self.frozen)} frozen axes"


@dataclass(frozen=True, eq=False)
class Resolved:
    """A plan that was checked against its graph, and what follows from it; made by `Graph.resolve`."""

    graph: Graph
    plan: Plan
    masks: Masks  # leaf -> bool [units] of every leaf that is cut; of a fibred one, `keep` of the plan
    orders: Mapping[str, Tensor]  # fibred group -> [units of the outer leaf, units]: the unit that comes to each place

    @property
    def counts(self) -> dict[Axis, int]:
        """Units that stay, by leaf, of the leaves that are cut."""
        return self.masks.counts

    @cached_property
    def slices(self) -> dict[str, dict[int, Tensor | Rows]]:
        """Tensor name -> dimension -> kept indices, for the dimensions that shrink.

        Raises:
            BadInput: fibres over two leaves that meet in one dimension of a parameter.
        """
        out: dict[str, dict[int, Tensor | Rows]] = {}
        for name, v in self.graph.tensors.items():
            shrinking = [d for d, a in enumerate(v.axes) if not self.masks.is_whole(a)]
            if not shrinking:
                continue
            plain, by_row = self._indices(name, v) if self.orders else ({}, {})
            kept = out.setdefault(name, {})
            for d in shrinking:
                places = self.masks.kept(v.axes[d])
                if d in by_row:
                    where, index = by_row[d]
                    kept[d] = rows_of(where, plain[d][index][:, places])
                else:
                    kept[d] = plain[d][places] if plain else places
        return out

    def _indices(self, name: str, v: Value) -> tuple[dict[int, Tensor], dict[int, tuple[Lines, Tensor]]]:
        """Dimension -> indices after renumbering, alike for the whole tensor and row by row."""
        sizes = [find(a).size for a in v.axes]
        plain = {d: torch.arange(n) for d, n in enumerate(sizes)}
        by_row: dict[int, tuple[Lines, Tensor]] = {}
        for group, order in self.orders.items():
            for where in lines(v, self.graph.leaves[group], self.graph.fibres[group]):
                index = indices(where, sizes[where.dim], order)
                if where.along is None:
                    plain[where.dim] = plain[where.dim][index]
                elif where.dim in by_row:
                    raise BadInput(
                        f"plan, fibres of {group!r}: dimension {where.dim} of {name} already keeps other units "
                        "for each unit of another group; leave one of the two out"
                    )
                else:
                    by_row[where.dim] = (where, index)
        return plain, by_row


def _add_sites(table: dict[Axis, tuple[list[Site], list[Site]]], op: Op) -> None:
    first = next((a for a in op.args if isinstance(a, Value)), None)
    weights = {find(leaf) for v in op.inputs if v is not first for a in v.axes for leaf in _cut_leaves(a)}
    for which, slot, v in ((0, "in0", first), (1, "out", op.outputs[0] if op.outputs else None)):
        if v is None or v.name is not None:
            continue
        for d, a in enumerate(v.axes):
            for leaf in dict.fromkeys(_cut_leaves(a)):
                if leaf in table and leaf in weights:
                    table[leaf][which].append(Site(op.index, slot, d, positions(a, leaf)))


def _cut_leaves(a: Axis) -> Iterable[Axis]:
    a = find(a)
    if a.frozen:
        return ()
    return (a,) if a.kind is None else tuple(leaf for k in a.kids for leaf in _cut_leaves(k))


def _per_unit(tensor: Tensor, dim: int, where: Tensor) -> Tensor:
    units, times = where.shape
    if times == 1 and units == tensor.shape[dim]:
        return tensor.movedim(dim, 0).reshape(units, -1)
    picked = tensor.index_select(dim, where.reshape(-1).to(tensor.device)).movedim(dim, 0)
    return picked.reshape(units, -1)
