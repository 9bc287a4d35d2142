"""Reductions and softmax: reduced dimensions disappear; a statistic over units mixes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sartor.structure.axes import UNIT, Axes, fixed, freeze, mixing
from sartor.structure.calls import Op, Value, dims
from sartor.structure.rules.pointwise import pointwise
from sartor.structure.rules.registry import each_output, freeze_all, rule, same_nesting
from sartor.structure.rules.shapes import alike, new
from sartor.types import Reason

_EXACT = {
    "sum",
    "linalg_vector_norm",
    "norm",
    "nansum",
    "count_nonzero",
    "any",
}  # removed units are zero, and zeros do not change these


def _reduced(x: Tensor, over: Any = None, keep: bool = False, *, dtype: Any = None) -> Any:
    if dtype is not None or not alike(x) or not x.is_contiguous() or not isinstance(over, list | tuple | None):
        return NotImplemented
    n = x.ndim
    if not all(type(d) is int and -n <= d < n for d in over or ()):
        return NotImplemented
    gone = set(dims(over, n))
    if over and len(gone) < len(over):
        return NotImplemented
    return new(x, [1 if d in gone else size for d, size in enumerate(x.shape) if keep or d not in gone])


@rule("reduce", "sum mean", meta=_reduced)
@rule(
    "reduce",
    """amax amin max min var std var_mean std_mean prod norm linalg_vector_norm logsumexp any all argmax argmin
    median nansum nanmean aminmax mode count_nonzero norm_except_dim""",
)
def reduce(op: Op) -> Any:
    """Drop the reduced dimensions, or keep them with size 1."""
    if len(op.inputs) > 1:  # torch.max(a, b)
        return pointwise(op)
    x = op.inputs[0]
    over = dims(op.arg("dim"), x.ndim)
    keep = op.arg("keepdim", False)
    indices = "arg" in op.name or (not isinstance(op.out, Value) and op.name not in ("var_mean", "std_mean", "aminmax"))
    for d in over:
        if indices:
            freeze(x.axes[d], op.reason("indices"))
        elif op.name not in _EXACT:
            mixing(x.axes[d], op.reason("reduction"))
    axes = [UNIT if d in over else a for d, a in enumerate(x.axes) if keep or d not in over]
    if len(axes) != op.outputs[0].ndim:
        return freeze_all(op, op.reason("form", "this form of the call"))
    return each_output(op, axes)


def _softmax_meta(x: Tensor, d: Any, dtype: Any = None) -> Any:
    fits = dtype is None and type(d) is int and -x.ndim <= d < x.ndim and alike(x)
    return new(x, x.shape) if fits else NotImplemented


@rule("softmax", "softmax log_softmax", meta=_softmax_meta)
@rule("softmax", "_softmax _log_softmax _safe_softmax")
def softmax(op: Op) -> Axes:
    """Mixes along its dimension."""
    x = op.args[0]
    if x.ndim:
        mixing(x.axes[op.args[1] % x.ndim], op.reason("softmax"))
    return list(x.axes)


def _rolled(x: Tensor, shifts: Any, over: Any = ()) -> Any:
    fits = alike(x) and len(shifts) == len(over) > 0 and x.numel() and all(-x.ndim <= d < x.ndim for d in over)
    return new(x, x.shape) if fits else NotImplemented


@rule("normalize", "roll", meta=_rolled)
@rule("normalize", "cumsum cumprod cummax cummin logcumsumexp topk sort argsort kthvalue flip diff")
def along(op: Op) -> Any:
    """The order along the dimension matters: it is frozen; the others are passed on."""
    x = op.args[0]
    d = op.arg("dim")
    over = dims(op.arg("dims") if d is None else d, x.ndim)
    return freeze_dims(op, over, op.reason("order"))


@rule("normalize", "triu tril")
def triangle(op: Op) -> Any:
    """The last two dimensions are frozen."""
    n = op.args[0].ndim
    return freeze_dims(op, [n - 2, n - 1], op.reason("positions"))


@rule("fourier", "_fft_r2c _fft_c2r _fft_c2c")
def fourier(op: Op) -> Any:
    """Every output depends on every input along the transformed dimensions: they are frozen."""
    return freeze_dims(op, dims(op.args[1], op.args[0].ndim), op.reason("fourier"))


def freeze_dims(op: Op, over: list[int], why: Reason) -> Any:
    """Freeze some dimensions of the first argument, pass the others to every output of the same rank."""
    x = op.args[0]
    for d in over:
        freeze(x.axes[d], why)

    def axes(shape: tuple[int, ...]) -> Axes:
        if len(shape) != x.ndim:
            return [fixed(n, why) for n in shape]
        return [fixed(shape[d], why) if d in over else a for d, a in enumerate(x.axes)]

    return same_nesting(op, axes)
