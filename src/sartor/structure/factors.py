"""Products of two tensors in any operator: which axes the factors share, and which are summed over."""

from __future__ import annotations

from typing import NamedTuple

from sartor.structure.axes import Axes, find
from sartor.structure.calls import Op, Value
from sartor.structure.rules.einsum import labels_of

_FIRST = {"addmm": 1, "baddbmm": 1}  # where the two factors start among the arguments


class Factors(NamedTuple):
    """The two factors of a product, and their axes by role."""

    a: Value
    b: Value
    batch: Axes  # of both, and of the result
    summed: Axes  # of both; the result does not have them
    of_a: Axes
    of_b: Axes


def factors_of(op: Op) -> Factors | None:
    """The two factors of an operator of kind "matmul"; None if it has one factor or more than two."""
    if op.name == "einsum":
        return _of_einsum(op)
    start = _FIRST.get(op.name, 0)
    a, b = op.args[start : start + 2]
    if a.ndim == 0 or b.ndim == 0 or op.name in ("outer", "ger"):
        return None
    if b.ndim == 1:
        return Factors(a, b, [], [b.axes[0]], list(a.axes[:-1]), [])
    batch = op.out.axes[:-2] if a.ndim > 2 and b.ndim > 2 else []
    return Factors(a, b, list(batch), [b.axes[-2]], list(a.axes[-2:-1]), [b.axes[-1]])


def _of_einsum(op: Op) -> Factors | None:
    inputs, out = labels_of(op)
    if len(inputs) != 2:
        return None
    (one, other), (a, b) = inputs, op.args[1]
    axis = dict(zip(one, a.axes)) | {c: x for c, x in zip(other, b.axes) if c not in one or find(x).size > 1}
    shared = [c for c in one if c in other]
    return Factors(
        a, b,
        [axis[c] for c in shared if c in out], [axis[c] for c in shared if c not in out],
        [axis[c] for c in one if c not in other], [axis[c] for c in other if c not in one],
    )  # fmt: skip
