"""Numbers that a call states and that follow from axes: sizes of views, parts of splits, boundaries of slices.

In `x.view(n, self.heads, self.dim)` such numbers come from attributes; surgery looks for attributes with these values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.structure.axes import Axis, find, leaves, total
from sartor.structure.calls import Op, Value, dim
from sartor.structure.masks import Masks

_FROM_OUTPUT = {"view", "expand", "factory"}


@dataclass(frozen=True, slots=True)
class Part:
    """The number of units of an axis that lie in [start, stop), times `sign`."""

    axis: Axis
    start: int
    stop: int
    sign: int = 1

    @property
    def whole(self) -> bool:
        """Whether it is the size of the axis, or the negative of it."""
        return self.start == 0 and self.stop == find(self.axis).size

    @property
    def old(self) -> int:
        """Its value before any cut."""
        return self.sign * (self.stop - self.start)

    @property
    def fixed(self) -> bool:
        """Whether no cut changes it."""
        return self.start >= self.stop or all(leaf.frozen for leaf in leaves(self.axis))

    def new(self, cut: Masks) -> int:
        """Its value after a cut."""
        if self.start >= self.stop:
            return self.old
        if self.whole:
            return self.sign * cut.size(self.axis)
        return self.sign * int(cut.mask(self.axis)[self.start : self.stop].sum())


@dataclass(frozen=True, slots=True)
class Stated:
    """One number of a call, or a sequence of numbers."""

    parts: tuple[Part, ...]
    several: bool = False

    @property
    def old(self) -> int | tuple[int, ...]:
        """As traced."""
        return tuple(p.old for p in self.parts) if self.several else self.parts[0].old

    @property
    def fixed(self) -> bool:
        """Whether no cut changes it."""
        return all(p.fixed for p in self.parts)

    def new(self, cut: Masks) -> int | tuple[int, ...]:
        """After a cut."""
        values = tuple(p.new(cut) for p in self.parts)
        return values if self.several else values[0]


def stated_sizes(op: Op) -> Iterator[Stated]:
    """The numbers among the arguments of a call that are sizes of cut axes, or parts of them."""
    if not op.followed:
        return
    parts: list[Part] = []
    if op.kind in _FROM_OUTPUT and isinstance(op.out, Value):
        parts = [_size(a) for a in op.out.axes]
    elif op.kind == "split":
        d = dim(op.arg("dim", 0), op.args[0].ndim)
        parts = [_size(o.axes[d]) for o in op.outputs]
    elif op.kind == "slice":
        parts = _boundaries(op)
    elif op.kind == "pad":
        parts = padded_parts(op)
    if not parts:
        return
    if op.kind != "slice" and len(parts) > 1:
        yield Stated(tuple(parts), several=True)
        tail = tuple(p for p in parts if p.old or not p.fixed)
        if 1 < len(tail) < len(parts):
            yield Stated(tail, several=True)
    inferred = _inferred(op, len(parts))
    yield from (Stated((p,)) for i, p in enumerate(parts) if i not in inferred)
    if op.kind == "split" and len({p.old for p in parts}) == 1 < len(parts):
        yield Stated((_size(op.args[0].axes[dim(op.arg("dim", 0), op.args[0].ndim)]),))  # `x.split(self.width // 2)`


def _inferred(op: Op, n: int) -> set[int]:
    """Places of a list of n sizes that hold -1: the call leaves those to PyTorch."""
    lists = [x for x in op.args[1:] if isinstance(x, list | tuple) and len(x) == n]
    return {i for x in lists for i, size in enumerate(x) if type(size) is int and size == -1}


def padded_parts(op: Op) -> list[Part]:
    """The amount on each side, in the order of the argument of `pad`; a negative or empty one is fixed."""
    out: list[Part] = []
    amounts = op.args[1]
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i : 2 * i + 2]
        axis = op.out.axes[op.out.ndim - 1 - i]
        size = find(axis).size
        out += [_stretch(axis, 0, before), _stretch(axis, size - after, size) if after > 0 else Part(axis, 0, after)]
    return out


def _size(axis: Axis) -> Part:
    return Part(axis, 0, find(axis).size)


def _boundaries(op: Op) -> list[Part]:
    axis = op.args[0].axes[dim(op.arg("dim", 0), op.args[0].ndim)]
    size = find(axis).size
    found = [_boundary(axis, v) for v in (op.arg("start"), op.arg("end")) if isinstance(v, int) and abs(v) <= size]
    start, length = op.arg("start"), op.arg("length")
    if isinstance(start, int) and isinstance(length, int) and start >= 0:
        found.append(_stretch(axis, start, min(size, start + length)))
    return found


def _boundary(axis: Axis, v: int) -> Part:
    size = find(axis).size
    return _stretch(axis, 0, v) if v >= 0 else _stretch(axis, size + v, size, -1)


def _stretch(axis: Axis, start: int, stop: int, sign: int = 1) -> Part:
    """[start, stop) of an axis; the summands themselves where the two ends lie between summands."""
    axis = find(axis)
    if axis.kind == "s" and not axis.frozen and start < stop:
        inside, at = [], 0
        for k in map(find, axis.kids):
            if start <= at and at + k.size <= stop:
                inside.append(k)
            at += k.size
        if sum(k.size for k in inside) == stop - start:
            return Part(total(inside), 0, stop - start, sign)
    return Part(axis, start, stop, sign)


def misplaced(op: Op, args: Sequence[Any], kwargs: Mapping[str, Any], cut: Masks) -> str | None:
    """How a call pads or slices elsewhere than the cut original does; None: at the same place.

    The shape of the result does not show it: amounts in front and behind may be exchanged. Amounts that no cut changes
    are not compared, as they may follow from values.

    Args:
        op: of the original.
        args, kwargs: what the cut network calls it with.
    """
    if op.kind == "pad":
        want = [n if p.fixed else p.new(cut) for n, p in zip(args[1], padded_parts(op))]
        return None if list(args[1]) == want else f"pads by {list(args[1])}, expected {want}"
    old, new = op.arg("start"), args[2] if len(args) > 2 else kwargs.get("start")
    if op.kind != "slice" or op.arg("step", 1) != 1 or type(old) is not int or type(new) is not int:
        return None
    axis = op.args[0].axes[dim(op.arg("dim", 0), op.args[0].ndim)]
    before, got = Part(axis, 0, _position(old, find(axis).size)), _position(new, cut.size(axis))
    if before.fixed or got == before.new(cut):
        return None
    return f"takes what begins at {got}, expected {before.new(cut)}"


def _position(start: int, size: int) -> int:
    """A start of a slice, which may be negative or past the end, as a place from 0 to size."""
    return min(max(start + size if start < 0 else start, 0), size)


__all__ = ["Part", "Stated", "misplaced", "padded_parts", "stated_sizes"]
