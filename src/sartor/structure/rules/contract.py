"""Linear maps and matrix products: axes that are summed over unify, the other axes go to the result."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sartor.structure.axes import Axes, find, fixed, freeze, unify
from sartor.structure.calls import Op, Value
from sartor.structure.rules.registry import Terms, freeze_all, rule
from sartor.structure.rules.shapes import alike, new
from sartor.types import Reason


def add_bias(bias: Value | None, axes: Axes, why: str) -> Axes:
    """Unify a bias with the last dimensions of the output."""
    if bias is not None:
        for k in range(1, bias.ndim + 1):
            if bias.shape[-k] != 1:
                axes[-k] = unify(axes[-k], bias.axes[-k], why)
        bias.roles.setdefault(bias.ndim - 1, "out")
    return axes


def _linear_macs(op: Op) -> Terms:
    return [[*op.out.axes, op.args[1].axes[-1]]]


def _linear_meta(x: Tensor, w: Tensor, b: Tensor | None = None) -> Any:
    fits = x.ndim > 1 and w.ndim == 2 and x.shape[-1] == w.shape[1] and (b is None or b.shape == w.shape[:1])
    return new(x, [*x.shape[:-1], w.shape[0]]) if fits and alike(x, w, b) else NotImplemented


@rule("linear", "linear", macs=_linear_macs, meta=_linear_meta)
def linear(op: Op) -> Axes:
    """x[..., in] w[out, in] + b[out]."""
    x, w = op.args[0], op.args[1]
    unify(x.axes[-1], w.axes[-1], op.where)
    w.roles.setdefault(w.ndim - 1, "in")
    if w.ndim > 1:
        w.roles.setdefault(0, "out")
        op.sizes.update(in_features=w.axes[1], out_features=w.axes[0])
    return add_bias(op.arg("bias"), [*x.axes[:-1], *w.axes[:-1]], op.where)


@rule("matmul", "mm", macs=lambda op: [[*op.args[0].axes, op.args[1].axes[1]]])
def mm(op: Op) -> Axes:
    """[n, k] [k, m]."""
    a, b = op.args[0], op.args[1]
    unify(a.axes[1], b.axes[0], op.where)
    b.roles.setdefault(0, "in")
    b.roles.setdefault(1, "out")
    return [a.axes[0], b.axes[1]]


@rule("matmul", "addmm", macs=lambda op: [[*op.args[1].axes, op.args[2].axes[1]]])
def addmm(op: Op) -> Axes:
    """bias + [n, k] [k, m]."""
    bias, a, b = op.args[:3]
    unify(a.axes[1], b.axes[0], op.where)
    b.roles.setdefault(0, "in")
    b.roles.setdefault(1, "out")
    return add_bias(bias, [a.axes[0], b.axes[1]], op.where)


def _bmm_macs(op: Op) -> Terms:
    return [[*op.args[-2].axes, op.args[-1].axes[2]]]


@rule("matmul", "bmm", macs=_bmm_macs)
def bmm(op: Op) -> Axes:
    """[b, n, k] [b, k, m]."""
    a, b = op.args[-2:]
    unify(a.axes[2], b.axes[1], op.where)
    return [unify(a.axes[0], b.axes[0], op.where), a.axes[1], b.axes[2]]


@rule("matmul", "baddbmm", macs=_bmm_macs)
def baddbmm(op: Op) -> Axes:
    """bias + [b, n, k] [b, k, m]."""
    return add_bias(op.args[0], bmm(op), op.where)


@rule("matmul", "mv", macs=lambda op: [list(op.args[0].axes)])
def mv(op: Op) -> Axes:
    """[n, k] [k]."""
    unify(op.args[0].axes[1], op.args[1].axes[0], op.where)
    return [op.args[0].axes[0]]


@rule("matmul", "dot vdot", macs=lambda op: [list(op.args[0].axes)])
def dot(op: Op) -> Axes:
    """[k] [k]."""
    unify(op.args[0].axes[0], op.args[1].axes[0], op.where)
    return []


def _matmul_macs(op: Op) -> Terms:
    return [[*op.out.axes, op.args[0].axes[-1]]]


@rule("matmul", "matmul", macs=_matmul_macs)
def matmul(op: Op) -> Axes:
    """[..., n, k] [..., k, m], vectors allowed, leading dimensions broadcast."""
    a, b = op.args[0], op.args[1]
    inner = -2 if b.ndim > 1 else 0
    unify(a.axes[-1], b.axes[inner], op.where)
    b.roles.setdefault(b.ndim + inner if inner else 0, "in")
    if b.ndim > 1:
        b.roles.setdefault(b.ndim - 1, "out")
    tail = ([a.axes[-2]] if a.ndim > 1 else []) + ([b.axes[-1]] if b.ndim > 1 else [])
    lead = op.out.ndim - len(tail)
    out: Axes = []
    for d in range(lead):
        axis = None
        for axes in (a.axes[:-2], b.axes[:-2]):
            k = d - lead + len(axes)
            if k >= 0 and axes[k].size != 1:
                axis = axes[k] if axis is None else unify(axis, axes[k], op.where)
        out.append(find(axis) if axis is not None else fixed(op.out.shape[d], Reason("broadcast", op.where)))
    return out + tail


@rule("matmul", "_grouped_mm")
def grouped_mm(op: Op) -> Any:
    """Rows sorted by expert [n, k], experts [e, k, m]."""
    a, b = op.args[0], op.args[1]
    if a.ndim == 2 and b.ndim == 3:
        unify(a.axes[1], b.axes[1], op.where)
        freeze(b.axes[0], op.reason("experts"))
        return [a.axes[0], b.axes[2]]
    return freeze_all(op, op.reason("form", "this form of a grouped product"))


def _outer(op: Op) -> Axes:
    return [op.args[0].axes[0], op.args[1].axes[0]]


rule("matmul", "outer ger")(_outer)
