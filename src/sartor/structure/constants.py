"""Numbers among the arguments of a call that follow from axes, as traced and after a cut.

In `x.view(n, self.heads, self.dim)` such numbers come from attributes; surgery looks for attributes with these values.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

from sartor.structure.axes import Axis, find
from sartor.structure.calls import Op, Value, dim
from sartor.structure.masks import Masks

_FROM_OUTPUT = {"view", "expand", "factory"}


@dataclass(frozen=True)
class Constant:
    """One number of a call, or a sequence of numbers, as traced and after the cut."""

    old: int | tuple[int, ...]
    new: int | tuple[int, ...]


def constants(op: Op, masks: Mapping[Axis, Tensor]) -> Iterator[Constant]:
    """Sequences first, then single numbers. Unchanged ones are included: they rule out other interpretations."""
    if not op.followed:
        return
    cut = Masks.of(masks)
    if op.kind in _FROM_OUTPUT and isinstance(op.out, Value):
        yield from _numbers([(find(a).size, cut.size(a)) for a in op.out.axes])
    elif op.kind == "split":
        x = op.args[0]
        d = dim(op.arg("dim", 0), x.ndim)
        yield from _numbers([(find(o.axes[d]).size, cut.size(o.axes[d])) for o in op.outputs])
    elif op.kind == "slice":
        x = op.args[0]
        d = dim(op.arg("dim", 0), x.ndim)
        mask = cut.mask(x.axes[d])
        ends = [v for v in (op.arg("start"), op.arg("end"), op.arg("length")) if isinstance(v, int)]
        yield from _numbers([(v, moved(v, mask)) for v in ends if abs(v) <= len(mask)])
    elif op.kind == "pad":
        yield from _numbers(pads(op, masks))


def pads(op: Op, masks: Mapping[Axis, Tensor]) -> list[tuple[int, int]]:
    """(amount as traced, amount after the cut) for each side, in the order of the argument."""
    out: list[tuple[int, int]] = []
    cut, amounts = Masks.of(masks), op.args[1]
    for i in range(len(amounts) // 2):
        before, after = amounts[2 * i : 2 * i + 2]
        mask = cut.mask(op.out.axes[op.out.ndim - 1 - i])
        out.append((before, int(mask[:before].sum()) if before > 0 else before))
        out.append((after, int(mask[len(mask) - after :].sum()) if after > 0 else after))
    return out


def moved(v: int, mask: Tensor) -> int:
    """A boundary of a slice after the cut; a negative one counts from the end."""
    return int(mask[:v].sum()) if v >= 0 else -int(mask[v:].sum())


def _numbers(pairs: list[tuple[int, int]]) -> Iterator[Constant]:
    if len(pairs) > 1:
        yield Constant(tuple(o for o, _ in pairs), tuple(n for _, n in pairs))
        tail = [p for p in pairs if p != (0, 0)]
        if 1 < len(tail) < len(pairs):
            yield Constant(tuple(o for o, _ in tail), tuple(n for _, n in tail))
    for old, new in pairs:
        yield Constant(old, new)
