"""Indexing: the indexed dimension is frozen, the others are passed on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sartor.structure.axes import UNIT, Axes, find, fixed, freeze, unify
from sartor.structure.calls import Op, Value, dim, frozen_axes
from sartor.structure.rules.pointwise import broadcast
from sartor.structure.rules.registry import freeze_all, freeze_values, rule
from sartor.structure.rules.shapes import alike, new

_MASK = (torch.bool, torch.uint8)


@rule("embedding", "embedding")
def embedding(op: Op) -> Axes:
    """Rows by index: the vocabulary is frozen, the width is passed on."""
    w, i = op.args[0], op.args[1]
    freeze(w.axes[0], op.reason("table"))
    w.roles.setdefault(1, "out")
    op.sizes.update(num_embeddings=w.axes[0], embedding_dim=w.axes[1])
    return [*i.axes, w.axes[1]]


@rule("embedding", "embedding_bag _embedding_bag _embedding_bag_forward_only")
def embedding_bag(op: Op) -> list[Axes]:
    """Rows by index, summed in bags."""
    w = op.args[0]
    freeze(w.axes[0], op.reason("table"))
    w.roles.setdefault(1, "out")
    op.sizes.update(num_embeddings=w.axes[0], embedding_dim=w.axes[1])
    rest = [frozen_axes(o.shape, op.reason("bags")) for o in op.out[1:]]
    return [[fixed(op.out[0].shape[0], op.reason("bags")), w.axes[1]], *rest]


@rule("index", "index_select")
def index_select(op: Op) -> Axes:
    """One dimension by a list of indices."""
    x, i = op.args[0], op.args[2]
    d = dim(op.args[1], x.ndim)
    freeze(x.axes[d], op.reason("lookup"))
    return [*x.axes[:d], i.axes[0] if i.ndim else UNIT, *x.axes[d + 1 :]]


def _index_meta(x: Tensor, given: Any) -> Any:
    """Indexing by one tensor of integers, in the first dimension."""
    i = given[0]
    if len(given) != 1 or i is None or i.dtype not in (torch.int64, torch.int32) or not x.ndim or not alike(x):
        return NotImplemented
    return new(x, [*i.shape, *x.shape[1:]]) if x.is_contiguous() and i.is_contiguous() else NotImplemented


@rule("index", "index _unsafe_index", meta=_index_meta)
def index(op: Op) -> Any:
    """x[i, :, j]: indexed dimensions are frozen; the broadcast index tensors take the place of the first of them."""
    x, given = op.args[0], list(op.args[1])
    slots: list[tuple[int, Value | None]] = []
    d = 0
    for i in given:
        width = i.ndim if i is not None and i.dtype in _MASK else 1
        for k in range(d, d + width):
            if i is not None:
                freeze(x.axes[k], op.reason("lookup"))
        slots.append((d, i))
        d += width
    rest = x.axes[d:]
    indices = [i for _, i in slots if i is not None]
    plain = [x.axes[p] for p, i in slots if i is None]
    masks = [i for i in indices if i.dtype in _MASK]
    freeze_values(masks, op.reason("mask"))
    if masks:
        if len(indices) > 1 or slots[0][1] is None:
            return freeze_all(op, op.reason("form", "this mixture of masks and indices"))
        return [fixed(op.out.shape[0], op.reason("mask")), *plain, *rest]
    shape = torch.broadcast_shapes(*(i.shape for i in indices))
    looked = broadcast(indices, shape, op.where)
    where = [n for n, (_, i) in enumerate(slots) if i is not None]
    if where[-1] - where[0] + 1 == len(where):
        before = [x.axes[p] for p, i in slots[: where[0]]]
        after = [x.axes[p] for p, i in slots[where[0] :] if i is None]
        axes = [*before, *looked, *after, *rest]
    else:
        axes = [*looked, *plain, *rest]
    return axes if len(axes) == op.out.ndim else freeze_all(op, op.reason("form", "this form of indexing"))


@rule("index", "index_put _index_put_impl _unsafe_index_put")
def index_put(op: Op) -> Any:
    """x[i] = v: indexed dimensions are frozen, trailing ones unify with those of v; x[mask] = number moves no axis."""
    x, given, v = op.args[0], list(op.args[1]), op.args[2]
    mask = given[0]
    if len(given) == 1 and mask.dtype in _MASK and all(a.size == 1 for a in v.axes):  # one number, as `masked_fill`
        for a, b in zip(x.axes, mask.axes):
            unify(a, b, op.where)
        return [find(a) for a in x.axes]
    d = 0
    for i in given:
        width = i.ndim if i is not None and i.dtype in _MASK else 1
        for k in range(d, d + width):
            freeze(x.axes[k], op.reason("write"))
        d += width
        if i is not None and i.dtype in _MASK:
            freeze_values([i], op.reason("mask write"))
    rest = x.axes[d:]
    for a, b in zip(reversed(v.axes), reversed(rest)):
        if a.size != 1:
            unify(a, b, op.where)
    for a in v.axes[: max(0, v.ndim - len(rest))]:
        freeze(a, op.reason("write"))
    return list(x.axes)


@rule("index", "gather take_along_dim")
def gather(op: Op) -> Axes:
    """Looks up along one dimension; the other dimensions of source and index unify."""
    x, i = op.args[0], op.args[2]
    return _along(op, [x, i], i)


@rule("index", "scatter scatter_add scatter_reduce")
def scatter(op: Op) -> Axes:
    """Writes along one dimension; the other dimensions of target, index and source unify."""
    x, i = op.args[0], op.args[2]
    source = op.args[3] if len(op.args) > 3 and isinstance(op.args[3], Value) else None
    return _along(op, [x, i] + ([source] if source is not None else []), x)


def _along(op: Op, parts: list[Value], result: Value) -> Axes:
    x = parts[0]
    d = dim(op.args[1], max(x.ndim, 1))
    for v in parts:
        if v.ndim:
            freeze(v.axes[d], op.reason("lookup"))
    for k in range(x.ndim):
        for v in parts[1:]:
            if k != d and v.axes[k].size != x.axes[k].size:
                freeze(v.axes[k], op.reason("part"))
                freeze(x.axes[k], op.reason("part"))
            elif k != d:
                unify(x.axes[k], v.axes[k], op.where)
    return [find(a) for a in result.axes]


@rule("index", "index_add index_copy index_reduce")
def index_add(op: Op) -> Axes:
    """Rows of the source are added to rows of the target."""
    x, source = op.args[0], op.args[3]
    d = dim(op.args[1], x.ndim)
    freeze(x.axes[d], op.reason("write"))
    freeze(source.axes[d], op.reason("write"))
    for k in range(x.ndim):
        if k != d:
            unify(x.axes[k], source.axes[k], op.where)
    return list(x.axes)
