"""Operators that move elements: views, permutations, splits, concatenations, padding, repeats, shuffles."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from sartor.structure.axes import (
    UNIT,
    Axes,
    Axis,
    Conflict,
    find,
    fixed,
    freeze,
    fresh,
    product,
    reshape,
    split_product,
    split_sum,
    total,
    unify,
)
from sartor.structure.calls import Op, Value, dim, dims
from sartor.structure.rules.pointwise import broadcast
from sartor.structure.rules.registry import freeze_all, rule
from sartor.structure.rules.shapes import alike, new, packed
from sartor.types import Reason


def replaced(axes: Axes, d: int, a: Axis) -> Axes:
    """A copy of the list with one axis replaced."""
    return [*axes[:d], a, *axes[d + 1 :]]


def _reshape_meta(x: Tensor, shape: Any) -> Any:
    """Reshapes that copy; PyTorch makes views itself, and fast."""
    if not alike(x) or x.is_contiguous() or not x.numel() or shape.count(-1) > 1:
        return NotImplemented
    try:
        return x.view(shape)
    except RuntimeError:
        sizes = [n if n != -1 else x.numel() // (-math.prod(shape) or 1) for n in shape]
        return new(x, sizes) if math.prod(sizes) == x.numel() and min(sizes, default=0) > 0 else NotImplemented


@rule("view", "reshape", meta=_reshape_meta)
@rule(
    "view",
    """view _unsafe_view _reshape_alias view_copy flatten unflatten reshape_as view_as _reshape_copy ravel""",
)
def view(op: Op) -> Axes:
    """Row-major reshape: axes are joined to products, products are split."""
    x = op.args[0]
    if len(op.args) > 1 and isinstance(op.args[1], torch.dtype):
        freeze(x.axes[-1], op.reason("bytes"))
        return replaced(x.axes, x.ndim - 1, fixed(op.out.shape[-1], op.reason("bytes")))
    return reshape(x.axes, op.out.shape)


@rule("view", "as_strided")
def as_strided(op: Op) -> Any:
    """The in-place form with the same shape only changes the memory format."""
    x = op.args[0]
    if op.mutates and tuple(op.args[1]) == x.shape:
        return list(x.axes)
    return freeze_all(op, op.reason("memory"))


@rule("move", "t numpy_T")
def transpose_all(op: Op) -> Axes:
    """Dimensions reversed."""
    return list(reversed(op.args[0].axes))


@rule("move", "transpose swapaxes swapdims")
def transpose(op: Op) -> Axes:
    """Two dimensions swapped."""
    axes = list(op.args[0].axes)
    if axes:
        i, j = dim(op.args[1], len(axes)), dim(op.args[2], len(axes))
        axes[i], axes[j] = axes[j], axes[i]
    return axes


@rule("move", "permute")
def permute(op: Op) -> Axes:
    """Dimensions in the order given."""
    axes = op.args[0].axes
    return [axes[dim(d, len(axes))] for d in op.args[1]]


@rule("move", "movedim moveaxis")
def movedim(op: Op) -> Axes:
    """Some dimensions moved, the others in order."""
    axes = op.args[0].axes
    source, goal = dims(op.args[1], len(axes)), dims(op.args[2], len(axes))
    moved = dict(zip(goal, source))
    rest = iter(d for d in range(len(axes)) if d not in source)
    return [axes[moved[d]] if d in moved else axes[next(rest)] for d in range(len(axes))]


@rule("move", "unsqueeze")
def unsqueeze(op: Op) -> Axes:
    """A dimension of size 1 is inserted."""
    axes = list(op.args[0].axes)
    axes.insert(dim(op.args[1], len(axes) + 1), UNIT)
    return axes


@rule("move", "squeeze")
def squeeze(op: Op) -> Axes:
    """Dimensions of size 1 are removed."""
    x = op.args[0]
    over = dims(op.args[1] if len(op.args) > 1 else None, x.ndim)
    return [a for i, a in enumerate(x.axes) if not (i in over and x.shape[i] == 1)]


@rule("expand", "expand broadcast_to")
def expand(op: Op) -> Axes:
    """Dimensions of size 1 grow to any size."""
    return broadcast([op.args[0]], op.out.shape, op.where)


@rule("expand", "repeat tile")
def repeat(op: Op) -> Axes:
    """n copies: (copies * axis)."""
    x, out = op.args[0], op.out
    axes: Axes = []
    for d, n in enumerate(out.shape):
        k = d - out.ndim + x.ndim
        a, old = (x.axes[k], x.shape[k]) if k >= 0 else (UNIT, 1)
        axes.append(product([fresh(n // old), a]) if old else fixed(0, op.reason("empty")))
    return axes


@rule("expand", "repeat_interleave")
def repeat_interleave(op: Op) -> Any:
    """Each unit n times: (axis * copies)."""
    if len(op.args) < 2 or isinstance(op.args[1], Value):
        return freeze_all(op, op.reason("counts"))
    x, d = op.args[0], op.arg("dim")
    if d is None:
        return [product([*x.axes, fresh(op.args[1])])]
    d = dim(d, x.ndim)
    return replaced(x.axes, d, product([x.axes[d], fresh(op.args[1])]))


def part(a: Axis, start: int, end: int, where: str) -> Axis:
    """The piece [start, end) of an axis; an axis that cannot be divided there is frozen."""
    try:
        _, rest = split_sum(a, start)
        piece, _ = split_sum(rest, end - start)
        return find(piece)
    except Conflict as e:
        reason = Reason("alignment", where, detail=str(e))
        freeze(a, reason)
        return fixed(end - start, reason)


@rule("slice", "slice slice_copy")
def slice_(op: Op) -> Axes:
    """Contiguous units are a summand; every s-th unit is the outer factor of (n/s * s)."""
    x = op.args[0]
    d = dim(op.arg("dim", 0), x.ndim)
    n = x.shape[d]
    start, end, step = op.arg("start"), op.arg("end"), op.arg("step") or 1
    start = 0 if start is None else min(max(start + n if start < 0 else start, 0), n)
    end = n if end is None else min(max(end + n if end < 0 else end, 0), n)
    if op.out.shape[d] == n:
        return list(x.axes)
    if step == 1:
        return replaced(x.axes, d, part(x.axes[d], start, end, op.where))
    if n % step == 0 and start < step and end > n - step:
        outer, inner = split_product(x.axes[d], n // step)
        freeze(inner, op.reason("step", str(step)))
        return replaced(x.axes, d, outer)
    freeze(x.axes[d], op.reason("step", str(step)))
    return replaced(x.axes, d, fixed(op.out.shape[d], op.reason("step", str(step))))


@rule("slice", "narrow")
def narrow(op: Op) -> Axes:
    """Contiguous units."""
    x, start = op.args[0], op.args[2]
    d = dim(op.args[1], x.ndim)
    if isinstance(start, Value):
        freeze(x.axes[d], op.reason("computed start"))
        return replaced(x.axes, d, fixed(op.args[3], op.reason("computed start")))
    return replaced(x.axes, d, part(x.axes[d], start % x.shape[d], start % x.shape[d] + op.args[3], op.where))


@rule("select", "select select_copy")
def select(op: Op) -> Axes:
    """One position is selected: the dimension is frozen."""
    x = op.args[0]
    d = dim(op.args[1], x.ndim)
    freeze(x.axes[d], op.reason("select"))
    return [*x.axes[:d], *x.axes[d + 1 :]]


@rule("select", "unbind")
def unbind(op: Op) -> list[Axes]:
    """Every position becomes a tensor: the dimension is frozen."""
    x = op.args[0]
    d = dim(op.arg("dim", 0), x.ndim)
    freeze(x.axes[d], op.reason("unbind"))
    return [[*x.axes[:d], *x.axes[d + 1 :]] for _ in op.out]


@rule("select", "diagonal diagonal_copy")
def diagonal(op: Op) -> Axes:
    """x[..., i, i]: both dimensions of the main diagonal are one axis, which it keeps; other diagonals freeze both."""
    x = op.args[0]
    first, second = dim(op.arg("dim1", 0), x.ndim), dim(op.arg("dim2", 1), x.ndim)
    rest = [a for d, a in enumerate(x.axes) if d not in (first, second)]
    if not op.arg("offset", 0) and x.shape[first] == x.shape[second]:
        return [*rest, unify(x.axes[first], x.axes[second], op.where)]
    for d in (first, second):
        freeze(x.axes[d], op.reason("diagonal"))
    return [*rest, fixed(op.out.shape[-1], op.reason("diagonal"))]


@rule("select", "diag_embed")
def diag_embed(op: Op) -> Axes:
    """Units of the last dimension on the main diagonal of two dimensions, zeros elsewhere."""
    x = op.args[0]
    places = sorted(dim(op.arg(name, d), op.out.ndim) for name, d in (("dim1", -2), ("dim2", -1)))
    units, axes = x.axes[-1], list(x.axes[:-1])
    if op.arg("offset", 0):
        freeze(units, op.reason("diagonal"))
        units = fixed(op.out.shape[places[0]], op.reason("diagonal"))
    for d in places:
        axes.insert(d, units)
    return axes


@rule("split", "split split_with_sizes chunk unsafe_split unsafe_chunk tensor_split split_copy")
def split(op: Op) -> list[Axes]:
    """Pieces are summands. Pieces of one size given by a number must stay equal in count."""
    x = op.args[0]
    d = dim(op.arg("dim", 0), x.ndim)
    rest, pieces = x.axes[d], []
    for o in op.out:
        piece, rest = split_sum(rest, o.shape[d])
        pieces.append(piece)
    sizes = op.args[1] if len(op.args) > 1 else None
    alike = len({p.size for p in pieces}) == 1
    if len(pieces) > 1 and alike and (isinstance(sizes, int) or op.name in ("chunk", "unsafe_chunk")):
        op.ties.append([find(p) for p in pieces])
    return [replaced(x.axes, d, p) for p in pieces]


def _cat_meta(tensors: Any, d: Any = 0) -> Any:
    first = tensors[0] if tensors else None
    if first is None or type(d) is not int or not -first.ndim <= d < first.ndim or not alike(*tensors):
        return NotImplemented
    shape = list(first.shape)
    d %= len(shape)
    for t in tensors:
        if [*t.shape[:d], *t.shape[d + 1 :]] != [*shape[:d], *shape[d + 1 :]]:
            return NotImplemented
    if len(shape) > 3 and not any(map(packed, tensors)):  # may all be channels last
        return NotImplemented
    shape[d] = sum(t.shape[d] for t in tensors)
    return new(first, shape)


@rule("concat", "cat concat concatenate", meta=_cat_meta)
def cat(op: Op) -> Axes:
    """A sum along the dimension; the other dimensions unify."""
    parts = [v for v in op.args[0] if v.shape != (0,)]
    if not parts:
        return list(op.args[0][0].axes)
    d = dim(op.arg("dim", 0), op.out.ndim)
    out: Axes = []
    for k in range(op.out.ndim):
        if k == d:
            out.append(total(v.axes[k] for v in parts))
            continue
        a = parts[0].axes[k]
        for v in parts[1:]:
            a = unify(a, v.axes[k], op.where)
        out.append(find(a))
    return out


@rule("concat", "stack")
def stack(op: Op) -> Axes:
    """A new frozen dimension; the others unify."""
    parts = op.args[0]
    axes = broadcast(parts, parts[0].shape, op.where)
    axes.insert(dim(op.arg("dim", 0), op.out.ndim), fixed(len(parts), op.reason("stack")))
    return axes


@rule("pad", "constant_pad_nd pad")
def pad(op: Op) -> Any:
    """Zeros on both sides are summands: they may align with another branch and be cut with it (ResNet option A)."""
    x, amounts = op.args[0], op.args[1]
    axes = list(x.axes)
    constant = op.name == "constant_pad_nd" or op.arg("mode", "constant") == "constant"
    zero = not op.arg("value")
    for i in range(len(amounts) // 2):
        d, (before, after) = x.ndim - 1 - i, amounts[2 * i : 2 * i + 2]
        if before == after == 0:
            continue
        if not constant:
            freeze(axes[d], op.reason("border"))
            axes[d] = fixed(op.out.shape[d], op.reason("border"))
            continue
        a = axes[d]
        if before < 0 or after < 0:
            a = part(a, max(-before, 0), x.shape[d] - max(-after, 0), op.where)
        room = fresh if zero else (lambda n: fixed(n, op.reason("padding value")))
        axes[d] = total([*([room(before)] if before > 0 else []), a, *([room(after)] if after > 0 else [])])
    return axes


@rule("shuffle", "pixel_shuffle")
def pixel_shuffle(op: Op) -> Axes:
    """Channels (c * r^2) give c."""
    x, out = op.args[0], op.out
    c, square = split_product(x.axes[-3], out.shape[-3])
    freeze(square, op.reason("sub-pixels"))
    for a in x.axes[-2:]:
        freeze(a, op.reason("spatial"))
    return [*x.axes[:-3], c, *(fixed(n, op.reason("spatial")) for n in out.shape[-2:])]


@rule("shuffle", "pixel_unshuffle")
def pixel_unshuffle(op: Op) -> Axes:
    """Channels c give (c * r^2)."""
    x, out, r = op.args[0], op.out, op.args[1]
    for a in x.axes[-2:]:
        freeze(a, op.reason("spatial"))
    square = fixed(r * r, op.reason("sub-pixels"))
    return [*x.axes[:-3], product([x.axes[-3], square]), *(fixed(n, op.reason("spatial")) for n in out.shape[-2:])]


@rule("shuffle", "channel_shuffle native_channel_shuffle")
def channel_shuffle(op: Op) -> Axes:
    """(groups * each) becomes (each * groups)."""
    x = op.args[0]
    g, each = split_product(x.axes[1], op.args[1])
    op.sizes["groups"] = g
    return replaced(x.axes, 1, product([each, g]))


@rule("shuffle", "im2col")
def im2col(op: Op) -> Axes:
    """Channels c give (c * kernel)."""
    x, out = op.args[0], op.out
    for a in x.axes[-2:]:
        freeze(a, op.reason("spatial"))
    kernel = fixed(out.shape[-2] // x.shape[-3], op.reason("kernel"))
    return [*x.axes[:-3], product([x.axes[-3], kernel]), fixed(out.shape[-1], op.reason("spatial"))]


@rule("shuffle", "col2im")
def col2im(op: Op) -> Axes:
    """(c * kernel) gives c."""
    x, out = op.args[0], op.out
    c, kernel = split_product(x.axes[-2], out.shape[-3])
    freeze(kernel, op.reason("kernel"))
    return [*x.axes[:-2], c, *(fixed(n, op.reason("spatial")) for n in out.shape[-2:])]


@rule("shuffle", "unfold")
def unfold(op: Op) -> Axes:
    """Sliding windows along a dimension: it is frozen."""
    x = op.args[0]
    d = dim(op.args[1], x.ndim)
    freeze(x.axes[d], op.reason("window"))
    return [
        *replaced(x.axes, d, fixed(op.out.shape[d], op.reason("windows"))),
        fixed(op.out.shape[-1], op.reason("windows")),
    ]


@rule("complex", "view_as_complex")
def view_as_complex(op: Op) -> Axes:
    """Pairs become one number."""
    x = op.args[0]
    freeze(x.axes[-1], op.reason("complex"))
    return list(x.axes[:-1])


@rule("complex", "view_as_real _view_as_real")
def view_as_real(op: Op) -> Axes:
    """One number becomes a pair."""
    return [*op.args[0].axes, fixed(2, op.reason("complex"))]
