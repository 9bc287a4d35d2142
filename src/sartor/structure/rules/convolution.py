"""Convolutions of every kind: plain, grouped, depthwise, dilated, transposed; 1-D to 3-D."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sartor.structure.axes import Axes, find, fixed, freeze, product, split_product, unify
from sartor.structure.calls import Op, Value
from sartor.structure.rules.registry import Terms, freeze_all, freeze_values, rule
from sartor.structure.rules.shapes import alike, swept


def groups_of(op: Op) -> int:
    """Number of groups of the call."""
    return int(op.arg("groups", 1))


def is_transposed(op: Op) -> bool:
    """Whether it is a transposed convolution."""
    return bool(op.arg("transposed", "transpose" in op.name))


def macs(op: Op) -> Terms:
    """Every output (input, when transposed) position times the kernel times the channels of a group."""
    x, w = op.args[0], op.args[1]
    return [[*(x if is_transposed(op) else op.out).axes, *w.axes[1:]]]


def _row_major(t: Tensor) -> bool:
    """Whether the strides are exactly those of a new tensor; versions of torch differ on strides of dimensions of 1."""
    expected = 1
    for size, stride in zip(reversed(t.shape), reversed(t.stride())):
        if stride != expected:
            return False
        expected *= max(size, 1)
    return True


def _meta(x: Tensor, w: Tensor, b: Tensor | None = None, *window: Any) -> Any:
    """`window` is stride, padding, dilation and groups; those at the end may be left out where they have defaults."""
    defaults: tuple[Any, ...] = (1, 0, 1, 1)
    stride, padding, dilation, groups = window + defaults[len(window) :]
    out = w.shape[0]
    if x.ndim != w.ndim or groups < 1 or x.shape[1] != w.shape[1] * groups or out % groups:
        return NotImplemented
    if not (alike(x, w, b) and _row_major(x) and _row_major(w)) or (b is not None and b.shape != (out,)):
        return NotImplemented
    return swept(x, out, w.shape[2:], stride, padding, dilation)


@rule("conv", "conv1d conv2d conv3d", macs=macs, meta=_meta)
@rule(
    "conv",
    "convolution _convolution convolution_overrideable conv_transpose1d conv_transpose2d conv_transpose3d",
    macs=macs,
)
def conv(op: Op) -> Axes:
    """x[batch, in, ...] with w[out, in / groups, ...]; transposed: w[in, out / groups, ...]."""
    x, w = op.args[0], op.args[1]
    bias: Value | None = op.arg("bias")
    g = groups_of(op)
    off = x.ndim - w.ndim + 1  # position of the channels: 0 when there is no batch
    channels = x.axes[off]
    op.sizes["in_channels"] = channels
    for k in w.axes[2:]:
        freeze(k, op.reason("kernel"))
    if is_transposed(op):
        unify(channels, w.axes[0], op.where)
        w.roles.setdefault(0, "in")
        w.roles.setdefault(1, "out")
        out = w.axes[1]
        if g > 1:
            outer, _ = split_product(w.axes[0], g)
            op.sizes["groups"] = outer
            out = product([outer, w.axes[1]])
    else:
        w.roles.setdefault(0, "out")
        out = w.axes[0]
        if g == 1:
            unify(channels, w.axes[1], op.where)
            w.roles.setdefault(1, "in")
        elif w.shape[1] == 1 and w.shape[0] == g:
            op.sizes["groups"] = unify(channels, w.axes[0], op.where)
        else:
            writers, _ = split_product(w.axes[0], g)
            readers, each = split_product(channels, g)
            op.sizes["groups"] = unify(writers, readers, f"the groups of {op.where}")
            unify(each, w.axes[1], op.where)
            w.roles.setdefault(1, "in")
    if bias is not None:
        out = unify(out, bias.axes[0], op.where)
        bias.roles.setdefault(0, "out")
    for a in x.axes[off + 1 :]:
        freeze(a, op.reason("spatial"))
    op.sizes["out_channels"] = out
    return [*x.axes[:off], find(out), *(fixed(n, op.reason("spatial")) for n in op.out.shape[off + 1 :])]


@rule("conv", "torchvision::deform_conv2d")
def deform(op: Op) -> Any:
    """Deformable convolution; offsets and masks are frozen."""
    x, w, offset, mask, bias = op.args[:5]
    freeze_values((offset, mask), op.reason("offsets"))
    if x.shape[1] != w.shape[1]:
        return freeze_all(op, op.reason("form", "a grouped deformable convolution"))
    unify(x.axes[1], w.axes[1], op.where)
    out = unify(w.axes[0], bias.axes[0], op.where) if bias is not None and bias.shape == w.shape[:1] else w.axes[0]
    for a in x.axes[2:]:
        freeze(a, op.reason("spatial"))
    for a in w.axes[2:]:
        freeze(a, op.reason("kernel"))
    return [x.axes[0], find(out), *(fixed(n, op.reason("spatial")) for n in op.out.shape[2:])]
