"""The algebra of axes: every dimension of every tensor carries an Axis; axes unify; the leaves that remain can be cut.

An Axis is a node of a union-find forest with a size and, after refinement, a structure:

    leaf      kind None          units that can be cut
    product   kind "p", kids     row-major reshape; size = product of the kids' sizes, every kid > 1
    sum       kind "s", kids     concatenation; size = sum of the kids' sizes

Kids are strictly smaller than their parent and only equal sizes unify, so cyclic terms cannot arise: the occurs check
is the size check. A frozen axis keeps every index, so it needs no structure: an axis that is unified with it is frozen
as well, and splitting it gives frozen parts. Freezing is never undone, so the result is sound in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from sartor.types import Reason


class Conflict(Exception):
    """Two structures cannot be aligned; the caller freezes the axes that it changed."""


class Axis:
    """One dimension: a leaf, a product or a sum. Compare and hash by identity of `find(axis)`."""

    __slots__ = ("frozen", "kids", "kind", "mix", "parent", "size")

    def __init__(self, size: int, *, kind: str | None = None, kids: Sequence[Axis] = (), frozen: Reason | None = None):
        self.size = size
        self.parent: Axis | None = None
        self.kind = kind
        self.kids = list(kids)
        self.frozen = frozen  # why it cannot be cut
        self.mix: Mapping[Reason, None] = _NO_MIX  # why cutting it changes what the other units compute, in order

    def __repr__(self) -> str:
        a = find(self)
        if a.kind is None or a.frozen:
            return f"{'!' if a.frozen else ''}{a.size}"
        return "(" + (" * " if a.kind == "p" else " + ").join(map(repr, a.kids)) + ")"


_NO_MIX: Mapping[Reason, None] = {}
Axes = list[Axis]
UNIT = Axis(1, frozen=Reason("unit"))
_EMPTY = Reason("empty")


def find(a: Axis) -> Axis:
    """The representative of `a`."""
    if a.parent is None:
        return a
    root = a.parent
    while root.parent is not None:
        root = root.parent
    while a is not root:
        a.parent, a = root, a.parent  # type: ignore[assignment]
    return root


def _reason(why: Reason | str) -> Reason:
    return why if isinstance(why, Reason) else Reason("rule", detail=why)


def fixed(n: int, why: Reason | str) -> Axis:
    """A frozen axis of n; a text serves as a reason where none of the known kinds fits."""
    return UNIT if n == 1 else Axis(n, frozen=_reason(why))


def fresh(n: int) -> Axis:
    """A new leaf of n."""
    return UNIT if n == 1 else Axis(n)


def freeze(a: Axis, why: Reason | str) -> None:
    """Mark `a` and its parts as not cuttable; the first reason is kept."""
    a = find(a)
    if a.frozen:
        return
    a.frozen = _reason(why)
    for k in a.kids:
        freeze(k, a.frozen)


def mixing(a: Axis, why: Reason | str) -> None:
    """Mark that cutting `a` changes what the other units compute (a norm, softmax or mean): allowed, but not exact."""
    a = find(a)
    if a.frozen:
        return
    reason = _reason(why)
    if reason not in a.mix:
        a.mix = {**a.mix, reason: None}
    for k in a.kids:
        mixing(k, reason)


def _refine(a: Axis, kind: str, kids: Axes) -> None:
    a.kind, a.kids = kind, kids
    for why in a.mix:
        for k in kids:
            mixing(k, why)


def multiple(a: Axis) -> tuple[int, Axis] | None:
    """(k, leaf) if the size of an axis is k times that of one leaf after every cut; None otherwise."""
    a = find(a)
    if a.frozen or a.kind is None:
        return None if a.frozen else (1, a)
    if a.kind == "p":
        cut = [k for k in map(find, a.kids) if not k.frozen]
        inside = multiple(cut[0]) if len(cut) == 1 else None
        return None if inside is None else (inside[0] * (a.size // cut[0].size), inside[1])
    parts = [multiple(k) for k in a.kids]
    whose = {p[1] for p in parts if p is not None}
    return (sum(p[0] for p in parts if p), whose.pop()) if None not in parts and len(whose) == 1 else None


def refined(leaf: Axis, like: Axis, why: Reason) -> None:
    """Give a leaf the structure of another axis of its size, with leaves of its own; `why` its frozen parts are."""
    leaf, copy = find(leaf), _alike(like, why)
    _refine(leaf, str(copy.kind), copy.kids)


def _alike(a: Axis, why: Reason) -> Axis:
    """A new axis of the same structure."""
    a = find(a)
    if a.frozen or a.kind is None:
        return fixed(a.size, why) if a.frozen else fresh(a.size)
    return Axis(a.size, kind=a.kind, kids=[_alike(k, why) for k in a.kids])


def unrefined(axis: Axis) -> None:
    """Take `refined` back, as long as nothing was unified with the factors since."""
    axis = find(axis)
    axis.kind, axis.kids = None, []


def _compose(kind: str, kids: Iterable[Axis], drop: int, size: Callable[[Iterable[int]], int]) -> Axis:
    """Flatten nested kids of the same kind and drop neutral ones; if all are frozen, the result is one frozen axis."""
    flat: Axes = []
    for k in map(find, kids):
        if k.size != drop:
            flat.extend(map(find, k.kids) if k.kind == kind and not k.frozen else [k])
    if not flat:
        return UNIT if drop == 1 else fixed(0, _EMPTY)
    if len(flat) == 1:
        return flat[0]
    n = size(k.size for k in flat)
    if all(k.frozen for k in flat):
        return fixed(n, next((k.frozen for k in flat if k is not UNIT and k.frozen), Reason("unit")))
    return Axis(n, kind=kind, kids=flat)


def product(kids: Iterable[Axis]) -> Axis:
    """Row-major product of axes."""
    return _compose("p", kids, 1, math.prod)


def total(kids: Iterable[Axis]) -> Axis:
    """Concatenation of axes."""
    return _compose("s", kids, 0, sum)


def split_product(a: Axis, outer: int) -> tuple[Axis, Axis]:
    """a as (outer, inner) with a = outer * inner, refining leaves on the way.

    Raises:
        Conflict: the structure of a cannot be divided there.
    """
    a = find(a)
    if outer == a.size:
        return a, UNIT
    if outer == 1:
        return UNIT, a
    inner = a.size // outer
    if outer * inner != a.size:
        raise Conflict(f"{a} is not {outer} times something")
    if a.frozen:
        return fixed(outer, a.frozen), fixed(inner, a.frozen)
    if a.kind is None:
        o, i = fresh(outer), fresh(inner)
        _refine(a, "p", [o, i])
        return o, i
    if a.kind == "p":
        head, rest = find(a.kids[0]), a.kids[1:]
        if head.size == outer:
            return head, product(rest)
        if head.size < outer:
            if outer % head.size:
                raise Conflict(f"{a} is not {outer} x {inner}")
            o, i = split_product(product(rest), outer // head.size)
            return product([head, o]), i
        if head.size % outer:
            raise Conflict(f"{a} is not {outer} x {inner}")
        o, i = split_product(head, outer)
        return o, product([i, *rest])
    # x*r + y*r = (x + y)*r
    if any(find(k).size % inner for k in a.kids):
        raise Conflict(f"{a} is not {outer} x {inner}")
    parts = [split_product(k, find(k).size // inner) for k in list(a.kids)]
    for _, i in parts[1:]:
        unify(parts[0][1], i, "the factor shared by concatenated parts")
    return total(o for o, _ in parts), find(parts[0][1])


def split_sum(a: Axis, n: int) -> tuple[Axis, Axis]:
    """a cut at position n, as (left, right), refining leaves on the way.

    Raises:
        Conflict: n falls inside the inner part of a product.
    """
    a = find(a)
    if n <= 0:
        return fixed(0, _EMPTY), a
    if n >= a.size:
        return a, fixed(0, _EMPTY)
    if a.frozen:
        return fixed(n, a.frozen), fixed(a.size - n, a.frozen)
    if a.kind is None:
        left, right = fresh(n), fresh(a.size - n)
        _refine(a, "s", [left, right])
        return left, right
    if a.kind == "s":
        before: Axes = []
        rest = list(map(find, a.kids))
        while rest and n >= rest[0].size:
            n -= rest[0].size
            before.append(rest.pop(0))
        if n:
            left, right = split_sum(rest[0], n)
            before.append(left)
            rest[0] = right
        return total(before), total(rest)
    head, tail = find(a.kids[0]), product(a.kids[1:])
    if n % tail.size:
        raise Conflict(f"{a} cannot be cut at {n}")
    left, right = split_sum(head, n // tail.size)
    return product([left, tail]), product([right, tail])


def unify(a: Axis, b: Axis, where: str) -> Axis:
    """Make two axes the same axis; never raises.

    Args:
        a, b: frozen if they cannot be aligned.
        where: the operator that asks for it, as the reason names it ("add in layer1").
    """
    a, b = find(a), find(b)
    if a is b:
        return a
    if a.size != b.size:
        reason = Reason("sizes", where, detail=f"{a.size} and {b.size}")
        freeze(a, reason)
        freeze(b, reason)
        return a
    if a.frozen or b.frozen:
        _freeze_both(a, b)
        return a
    mix = (*a.mix, *b.mix)
    if a.kind is None or b.kind is None:
        if a.kind is not None:
            a, b = b, a
        a.parent = b
    else:
        try:
            if a.kind == b.kind:
                _align(a, b, where, split_product if a.kind == "p" else split_sum)
            else:
                prod, rest = (a, b) if a.kind == "p" else (b, a)
                for k in list(rest.kids):
                    left, prod = split_sum(prod, find(k).size)
                    unify(left, k, where)
        except Conflict as e:
            reason = Reason("alignment", where, detail=str(e))
            freeze(a, reason)
            freeze(b, reason)
            return a
        a, b = find(a), find(b)
        if a is not b:
            _freeze_both(a, b)
            a.parent = b
    for m in mix:
        mixing(b, m)
    return find(b)


def _freeze_both(a: Axis, b: Axis) -> None:
    """If one of the two is frozen, freeze the other for the same reason."""
    reason = a.frozen or b.frozen
    if reason is not None:
        freeze(a, reason)
        freeze(b, reason)


def _align(a: Axis, b: Axis, where: str, split: Callable[[Axis, int], tuple[Axis, Axis]]) -> None:
    """Walk two factor lists, or two lists of summands, from the left; split the larger head where they differ.

    Heads are looked up again at each step: refining one entry can refine a later one.
    """
    kind, left, right = a.kind, list(a.kids), list(b.kids)
    while left and right:
        x, y = find(left[0]), find(right[0])
        if x.kind == kind and not x.frozen:
            left[:1] = x.kids
        elif y.kind == kind and not y.frozen:
            right[:1] = y.kids
        elif x.size == y.size:
            unify(x, y, where)
            left.pop(0)
            right.pop(0)
        elif x.size > y.size:
            part, left[0] = split(x, y.size)
            unify(part, y, where)
            right.pop(0)
        else:
            part, right[0] = split(y, x.size)
            unify(part, x, where)
            left.pop(0)


def reshape(axes: Sequence[Axis], shape: Sequence[int]) -> Axes:
    """Axes of a row-major reshape: the common refinement of the input axes and the shape. Conflicts freeze the axes."""
    source = [find(a) for a in axes if find(a).size != 1]
    if 0 in shape:
        rest = [find(a) for a in axes]
        alike = math.prod(a.size for a in rest[1:]) == math.prod(shape[1:])
        if len(rest) > 1 and rest[0].size == shape[0] == 0 and alike:
            return [rest[0], *reshape(rest[1:], shape[1:])]  # an empty batch: the other dimensions are as usual
        return [fixed(n, _EMPTY) for n in shape]
    out: Axes = []
    current: Axis | None = None
    for pos, n in enumerate(shape):
        parts: Axes = []
        need = n
        try:
            while need > 1:
                if current is None or current.size == 1:
                    current = source.pop(0)
                current = find(current)
                if need % current.size == 0:
                    parts.append(current)
                    need //= current.size
                    current = None
                elif current.size % need == 0:
                    part, current = split_product(current, need)
                    parts.append(part)
                    need = 1
                else:
                    raise Conflict(f"a reshape to {list(shape)} cuts across {current}")
        except Conflict as e:
            reason = Reason("reshape", detail=str(e))
            for a in [*parts, *([current] if current is not None else []), *source]:
                freeze(a, reason)
            return out + [fixed(m, reason) for m in shape[pos:]]
        out.append(product(parts))
    return out


def leaves(a: Axis) -> Axes:
    """The leaves of an axis, left to right, with repetition; a frozen axis is one leaf."""
    a = find(a)
    if a.kind is None or a.frozen:
        return [a]
    return [leaf for k in a.kids for leaf in leaves(k)]


def new_size(a: Axis, kept: Mapping[Axis, int]) -> int:
    """Size once `kept[leaf]` units of each leaf stay; leaves not named stay whole."""
    a = find(a)
    if a.frozen:
        return a.size
    if a.kind is None:
        return kept.get(a, a.size)
    sizes = (new_size(k, kept) for k in a.kids)
    return math.prod(sizes) if a.kind == "p" else sum(sizes)


def keep_mask(a: Axis, masks: Mapping[Axis, Tensor]) -> Tensor:
    """Which positions of an axis stay, bool [size], from bool masks of its leaves."""
    a = find(a)
    if a.frozen or a.kind is None:
        mask = None if a.frozen else masks.get(a)
        return torch.ones(a.size, dtype=torch.bool) if mask is None else mask
    return joined_mask(a, [keep_mask(k, masks) for k in a.kids])


def joined_mask(a: Axis, parts: Sequence[Tensor]) -> Tensor:
    """Which positions of a sum or product stay, bool [size], from those of its kids."""
    if a.kind == "s":
        return torch.cat(list(parts))
    out = parts[0]
    for p in parts[1:]:
        out = (out[:, None] & p[None, :]).reshape(-1)
    return out


def positions(a: Axis, leaf: Axis) -> Tensor:
    """Indices of each unit of `leaf` along `a`: int64 [units, times]; times is 0 if the leaf does not occur in a."""
    a, leaf = find(a), find(leaf)
    if a is leaf:
        return torch.arange(a.size)[:, None]
    none = torch.empty((leaf.size, 0), dtype=torch.int64)
    if a.frozen or a.kind is None:
        return none
    kids = [find(k) for k in a.kids]
    found = [none]
    for i, k in enumerate(kids):
        inside = positions(k, leaf)
        if not inside.shape[1]:
            continue
        if a.kind == "s":
            found.append(inside + sum(x.size for x in kids[:i]))
            continue
        before, after = (math.prod(x.size for x in part) for part in (kids[:i], kids[i + 1 :]))
        spread = torch.arange(before)[:, None] * (k.size * after) + torch.arange(after)[None, :]
        found.append((inside[:, :, None] * after + spread.reshape(-1)).reshape(leaf.size, -1))
    return torch.cat(found, 1)
