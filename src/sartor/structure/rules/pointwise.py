"""Elementwise operators: their operands share axes, except for broadcast dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sartor.structure.axes import UNIT, Axes, Axis, find, freeze, fresh, split_sum, unify
from sartor.structure.calls import Op, Value
from sartor.structure.rules.registry import each_output, rule
from sartor.structure.rules.shapes import alike, elementwise, new
from sartor.types import Reason


def broadcast(operands: Sequence[Value], shape: Sequence[int], where: str) -> Axes:
    """Axes of operands broadcast to `shape`: equal dimensions unify, dimensions of size 1 are ignored."""
    out: Axes = []
    for d in range(len(shape)):
        axis: Axis | None = None
        for v in operands:
            k = d - len(shape) + v.ndim
            if k < 0 or v.shape[k] == 1:
                continue
            if v.shape[k] != shape[d]:
                freeze(v.axes[k], Reason("broadcast", where))
                continue
            axis = v.axes[k] if axis is None else unify(axis, v.axes[k], where)
        out.append(find(axis) if axis is not None else (UNIT if shape[d] == 1 else fresh(shape[d])))
    return out


@rule(
    "pointwise",
    """add sub mul div maximum minimum relu relu6 gelu silu mish hardswish hardsigmoid hardtanh sigmoid tanh elu
    celu selu leaky_relu softplus exp sqrt rsqrt neg abs square sin cos clamp pow""",
    meta=elementwise,
)
@rule(
    "pointwise",
    """masked_fill where native_dropout rrelu_with_noise isin _prelu_kernel heaviside real imag nan_to_num
    log_sigmoid_forward softshrink hardshrink bitwise_and logical_and polar complex floor_divide copy clip addcmul
    addcdiv lerp rsub threshold true_divide divide multiply subtract log_sigmoid logsigmoid rrelu float_power
    absolute""",
)
def pointwise(op: Op) -> Any:
    """The axes of all operands unify."""
    out = op.outputs[0]
    return each_output(op, broadcast(op.inputs, out.shape, op.where))


def _dropped(x: Tensor, p: float, train: bool) -> Any:
    return NotImplemented if train else x


def _contiguous(x: Tensor, *, memory_format: Any = torch.contiguous_format) -> Any:
    if memory_format is not torch.contiguous_format or not alike(x):
        return NotImplemented
    return x if x.is_contiguous() else new(x, x.shape)


def _alias(x: Tensor) -> Any:
    return x.view(x.shape) if alike(x) and x.is_contiguous() else NotImplemented


@rule("identity", "dropout", meta=_dropped)
@rule("identity", "alias", meta=_alias)
@rule("identity", "contiguous", meta=_contiguous)
@rule(
    "identity",
    """clone detach _to_copy lift_fresh lift_fresh_copy lift _conj positive resolve_conj resolve_neg to
    feature_dropout alpha_dropout feature_alpha_dropout zeros_like ones_like full_like empty_like rand_like
    randn_like randint_like zero fill uniform normal bernoulli type_as _conj_physical expand_as requires_grad
    _fused_dropout""",
)
def identity(op: Op) -> Any:
    """The result has the axes of the first input."""
    x = op.inputs[0]
    if x.shape != op.out.shape:
        return broadcast([x], op.out.shape, op.where)
    return list(x.axes)


@rule("identity", "_assert_tensor_metadata _assert_async _local_scalar_dense is_nonzero is_same_size sym_size item")
def nothing(op: Op) -> None:
    """The operator returns no tensor, so there are no axes."""
    return None


@rule("prelu", "prelu")
def prelu(op: Op) -> Axes:
    """One slope for all units, or one for each channel (dimension 1)."""
    x, w = op.args[0], op.args[1]
    out = list(x.axes)
    if w.shape and w.shape[0] != 1:
        d = 1 if x.ndim > 1 else 0
        out[d] = unify(out[d], w.axes[0], op.where)
        w.roles.setdefault(0, "norm")
        op.sizes["num_parameters"] = w.axes[0]
    return out


@rule("glu", "glu")
def glu(op: Op) -> Axes:
    """The two halves of a dimension are multiplied, so they are cut together."""
    x = op.args[0]
    d = op.arg("dim", -1) % x.ndim
    left, right = split_sum(x.axes[d], op.out.shape[d])
    out = list(x.axes)
    out[d] = unify(left, right, op.where)
    return out
