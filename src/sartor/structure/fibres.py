"""Fibred leaves: leaves that may keep different units for each unit of another leaf.

A plan without fibres keeps the same inner units of a product for every outer unit: the same channels of every head, the
same local channels of every group of a convolution. The network does not need that. If every tensor that carries a leaf
D also carries a leaf H, D may keep different units for each unit of H, as long as the count is the same.

Proof. A leaf that can be cut consists of units that no operator distinguishes, so renumbering D in all tensors does not
change the function of the network. Now renumber D differently for each unit h of H. Every tensor with D also carries H,
so the renumbering is defined for it. It can only disturb an operator that relates different h at the same d. Summing or
selecting over H alone cannot: the result would carry D without H. Mapping H to another axis cannot: one of the two
sides would carry D without H. Mapping H to itself cannot: the weights of the map would carry H in two dimensions. Norms
and softmax over H are marked on H (`mix`), and operators that depend on the order of H freeze it. A sum over H and D
together does not depend on the order. So the renumbered network computes the same function, and keeping the same units
in all its rows is an ordinary cut. `straight` turns the one form into the other.

The condition is sufficient, not necessary: some networks allow more (a map between heads that reads only attention
scores, for example).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from sartor.structure.axes import Axis, find, leaves, positions
from sartor.structure.calls import Op, Value


@dataclass(frozen=True)
class Lines:
    """Where a fibred leaf D occurs along one dimension of a tensor, and the unit of H that each index belongs to."""

    dim: int
    along: int | None  # the dimension that carries H; None: this one
    at: Tensor  # [units of D, times]
    of: Tensor  # unit of H for each of the times or, if H lies in another dimension, for each index along it


@dataclass(frozen=True)
class Rows:
    """Kept indices along one dimension that depend on the index along another one."""

    along: int
    which: tuple[int, ...]  # row by index along that dimension
    rows: tuple[tuple[int, ...], ...]

    def pick(self, t: Tensor, dim: int) -> Tensor:
        """The tensor with `dim` gathered row by row."""
        index = torch.tensor(self.rows, device=t.device)[torch.tensor(self.which, device=t.device)]
        shape = [1] * t.dim()
        shape[self.along], shape[dim] = index.shape
        index = (index if self.along < dim else index.t()).reshape(shape)
        return t.gather(dim, index.expand([n if d != dim else index.shape[dim] for d, n in enumerate(t.shape)]))


def bases(ops: Iterable[Op], tensors: Iterable[Value], cuttable: Iterable[Axis]) -> dict[Axis, Axis]:
    """Leaf -> the leaf H over which it may be fibred: the one with most units. No leaf is both a key and a value.

    Args:
        ops: solved.
        tensors: parameters and buffers.
        cuttable: leaves that can be cut.
    """
    values = {id(v): v for v in tensors}
    for op in ops:
        if op.live:
            values.update((id(v), v) for v in (*op.inputs, *op.outputs))
    seen: dict[int, frozenset[Axis]] = {}
    twice: set[Axis] = set()
    carriers: dict[Axis, list[Value]] = {}
    shared: dict[Axis, frozenset[Axis]] = {}
    for v in values.values():
        inside = [_leaves(a, seen, twice) for a in v.axes]
        for one, other in combinations(inside, 2):
            twice |= one & other
        everything = frozenset().union(*inside)
        for leaf in everything:
            carriers.setdefault(leaf, []).append(v)
            shared[leaf] = shared.get(leaf, everything) & everything
    found: dict[Axis, Axis] = {}
    known: dict[tuple[int, Axis, Axis], bool] = {}
    for leaf in sorted(map(find, cuttable), key=lambda a: -a.size):
        if leaf in found.values():
            continue
        over = [h for h in shared.get(leaf, ()) if h is not leaf and not h.mix and h not in twice and h not in found]
        for h in sorted(over, key=lambda a: -a.size):
            if all(_fits(v, leaf, h, known) for v in carriers[leaf]):
                found[leaf] = h
                break
    return found


def lines(v: Value, leaf: Axis, over: Axis) -> list[Lines]:
    """Every dimension of a tensor that carries a fibred leaf."""
    return list(_lines(v.axes, leaf, over))


def orders(kept: Sequence[int], rows: Sequence[Sequence[int]], units: int) -> Tensor:
    """[units of H, units of D]: an order that moves the kept units of each row to the places of `kept`."""
    out = torch.empty(len(rows), units, dtype=torch.int64)
    left = sorted(set(range(units)) - set(kept))
    for order, row in zip(out, rows):
        order[list(kept)] = torch.tensor(row)
        order[left] = torch.tensor(sorted(set(range(units)) - set(row)), dtype=torch.int64)
    return out


def indices(where: Lines, size: int, order: Tensor) -> Tensor:
    """Old index at each place of a dimension after reordering: [size], or [units of H, size] where it depends on H."""
    if where.along is not None:
        index = torch.arange(size).repeat(len(order), 1)
        index[:, where.at] = where.at[order]
        return index
    index = torch.arange(size)
    times = torch.arange(where.at.shape[1])
    index[where.at] = where.at[order[where.of].t(), times]
    return index


def reorder(t: Tensor, v: Value, leaf: Axis, over: Axis, order: Tensor) -> Tensor:
    """The tensor with the units of a leaf reordered; order: [units of H, units of D], one row for each unit of H."""
    for where in lines(v, leaf, over):
        index = indices(where, t.shape[where.dim], order)
        if where.along is None:
            t = t.index_select(where.dim, index.to(t.device))
        else:
            t = rows_of(where, index).pick(t, where.dim)
    return t


def rows_of(where: Lines, index: Tensor) -> Rows:
    """Indices [units of H, k] as Rows: they depend on the index along the dimension that carries H."""
    assert where.along is not None
    return Rows(where.along, tuple(where.of.tolist()), tuple(map(tuple, index.tolist())))


def pairs(where: Lines, over: Axis) -> Tensor:
    """[units of H * units of D, times]: indices of each pair along a dimension that carries both leaves."""
    each = [where.at[:, where.of == h] for h in range(over.size)]
    return torch.stack(each).flatten(0, 1)


def joint(where: Lines, over: Axis, tensor: Tensor) -> Tensor:
    """[units of H * units of D, rest]: all elements of a tensor that belong to each pair of units."""
    if where.along is None:
        at = pairs(where, over).to(tensor.device)
        return tensor.index_select(where.dim, at.reshape(-1)).movedim(where.dim, 0).reshape(len(at), -1)
    of = torch.stack([(where.of == h).nonzero()[:, 0] for h in range(over.size)]).to(tensor.device)  # [H, indices]
    picked = tensor.movedim((where.along, where.dim), (0, 1))[of][:, :, where.at.to(tensor.device)]  # [H, n, D, times]
    return picked.movedim(2, 1).reshape(over.size * len(where.at), -1)


def _leaves(a: Axis, seen: dict[int, frozenset[Axis]], twice: set[Axis]) -> frozenset[Axis]:
    """Leaves that can be cut; those that occur twice in one product are added to `twice`."""
    a = find(a)
    if id(a) not in seen:
        if a.kind is None or a.frozen:
            seen[id(a)] = frozenset() if a.frozen else frozenset([a])
        else:
            inside = [_leaves(k, seen, twice) for k in a.kids]
            if a.kind == "p":
                for one, other in combinations(inside, 2):
                    twice |= one & other
            seen[id(a)] = frozenset().union(*inside)
    return seen[id(a)]


def _fits(v: Value, leaf: Axis, over: Axis, known: dict[tuple[int, Axis, Axis], bool]) -> bool:
    """Whether each index of a leaf in a tensor belongs to exactly one unit of H, equally many for each unit."""
    carrying = [i for i, a in enumerate(v.axes) if leaf in leaves(a)]
    if len(carrying) == 1 and over in leaves(v.axes[carrying[0]]):
        key = (id(find(v.axes[carrying[0]])), leaf, over)
        if key not in known:
            known[key] = _regular([v.axes[carrying[0]]], leaf, over)
        return known[key]
    return _regular(v.axes, leaf, over)


def _regular(axes: Sequence[Axis], leaf: Axis, over: Axis) -> bool:
    try:
        for where in _lines(axes, leaf, over):
            if len(where.at.unique()) < where.at.numel():
                return False
            if len(where.of.bincount(minlength=over.size).unique()) > 1:
                return False
    except _Irregular:
        return False
    return True


class _Irregular(Exception):
    """An index of D belongs to no unit of H, or to several."""


def _lines(axes: Sequence[Axis], leaf: Axis, over: Axis) -> Iterator[Lines]:
    for d, a in enumerate(axes):
        at = positions(a, leaf)
        if not at.shape[1]:
            continue
        of = _unit_at(a, over)[at]
        if bool((of == of[:1]).all()) and bool((of >= 0).all()):
            yield Lines(d, None, at, of[0])
            continue
        elsewhere = [e for e, b in enumerate(axes) if e != d and over in leaves(b)]
        if bool((of >= 0).any()) or len(elsewhere) != 1:
            raise _Irregular
        of = _unit_at(axes[elsewhere[0]], over)
        if bool((of < 0).any()):
            raise _Irregular
        yield Lines(d, elsewhere[0], at, of)


def _unit_at(a: Axis, leaf: Axis) -> Tensor:
    """The unit of a leaf that each position of an axis belongs to; -1: none."""
    out = torch.full((find(a).size,), -1)
    at = positions(a, leaf)
    out[at] = torch.arange(len(at))[:, None]
    return out


__all__ = ["Lines", "Rows", "bases", "indices", "joint", "lines", "orders", "pairs", "reorder", "rows_of"]
