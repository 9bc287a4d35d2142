"""Normalisations: parameters unify with the channels; a statistic over units mixes them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sartor.structure.axes import UNIT, Axes, find, mixing, split_product, unify
from sartor.structure.calls import Op, Value, frozen_axes
from sartor.structure.rules.registry import Terms, rule
from sartor.structure.rules.shapes import alike, new


def _channel_tensors(op: Op, *names: str) -> list[Value]:
    found = [op.arg(n) for n in names]
    return [v for v in found if isinstance(v, Value) and v.ndim == 1]


def _thop_macs(op: Op) -> Terms:
    return [list(op.outputs[0].axes)] * 2


def _batch_norm_meta(x: Tensor, *rest: Any) -> Any:
    """`rest` is weight, bias, running mean, running variance, training, momentum, eps and cudnn_enabled."""
    *given, training, _momentum, _eps, _cudnn = rest
    mean, var = given[2:]
    if training or mean is None or var is None or x.ndim < 2 or not alike(x, *given) or not x.is_contiguous():
        return NotImplemented
    fits = all(t is None or t.shape == x.shape[1:2] for t in given)
    return new(x, x.shape) if fits else NotImplemented


@rule("batch_norm", "batch_norm", extra=_thop_macs, meta=_batch_norm_meta)
@rule(
    "batch_norm",
    """native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training cudnn_batch_norm
    _batch_norm_no_update _batch_norm_with_update instance_norm _batch_norm_impl_index""",
    extra=_thop_macs,
)
def batch_norm(op: Op) -> Any:
    """Channels in dimension 1; statistics of the batch mix the dimensions they are taken over."""
    x = op.args[0]
    axes: Axes = list(x.axes)
    for v in _channel_tensors(op, "weight", "bias", "running_mean", "running_var"):
        if v.shape[0] == x.shape[1]:
            axes[1] = unify(axes[1], v.axes[0], op.where)
            v.roles.setdefault(0, "buffer" if v.origin == "buffer" else "norm")
    op.sizes["num_features"] = axes[1]
    training = op.arg("training")
    if training is None:
        training = op.arg("use_input_stats", False)
    if training or op.arg("running_mean") is None:
        for a in (axes[:1] if op.name != "instance_norm" else []) + axes[2:]:
            mixing(a, op.reason("batch statistics"))
    if isinstance(op.out, Value):
        return axes
    c = find(axes[1])
    rest = [[c] if o.shape == (c.size,) else frozen_axes(o.shape, op.reason("saved statistics")) for o in op.out[1:]]
    return [axes, *rest]


def _layer_norm_meta(
    x: Tensor, shape: Any, w: Tensor | None = None, b: Tensor | None = None, eps: Any = None, cudnn: bool = True
) -> Any:
    shape = tuple(shape)
    fits = (
        shape and tuple(x.shape[-len(shape) :]) == shape and all(t is None or tuple(t.shape) == shape for t in (w, b))
    )
    return new(x, x.shape) if fits and alike(x, w, b) else NotImplemented


def _rms_norm_meta(x: Tensor, shape: Any, w: Tensor | None = None, eps: Any = None) -> Any:
    return _layer_norm_meta(x, shape, w) if x.is_contiguous() else NotImplemented


@rule("layer_norm", "rms_norm", meta=_rms_norm_meta)
@rule("layer_norm", "layer_norm", meta=_layer_norm_meta)
@rule("layer_norm", "native_layer_norm _fused_rms_norm")
def layer_norm(op: Op) -> Any:
    """Statistics over the last dimensions mix them."""
    x = op.args[0]
    k = len(op.args[1])
    axes: Axes = list(x.axes)
    for v in (op.arg("weight"), op.arg("bias")):
        if isinstance(v, Value):
            for i, a in enumerate(v.axes):
                axes[x.ndim - k + i] = unify(axes[x.ndim - k + i], a, op.where)
                v.roles.setdefault(i, "norm")
    op.sizes["normalized_shape"] = axes[x.ndim - k :]
    for a in axes[x.ndim - k :]:
        mixing(a, op.reason("statistics"))
    if isinstance(op.out, Value):
        return axes
    return [axes, *(axes[: x.ndim - k] + [UNIT] * (o.ndim - x.ndim + k) for o in op.out[1:])]


def _group_norm_meta(
    x: Tensor, groups: int, w: Tensor | None = None, b: Tensor | None = None, eps: float = 1e-5, cudnn: bool = True
) -> Any:
    fits = x.ndim > 1 and groups > 0 and x.shape[1] % groups == 0 and 0 not in x.shape and x.is_contiguous()
    fits = fits and all(t is None or t.shape == x.shape[1:2] for t in (w, b))
    return new(x, x.shape) if fits and alike(x, w, b) else NotImplemented


@rule("group_norm", "group_norm", meta=_group_norm_meta)
@rule("group_norm", "native_group_norm")
def group_norm(op: Op) -> Any:
    """Statistics over the channels of each group: groups are exact, channels inside a group mix."""
    x = op.args[0]
    native = op.name == "native_group_norm"
    axes: Axes = list(x.axes)
    for v in _channel_tensors(op, "weight", "bias"):
        axes[1] = unify(axes[1], v.axes[0], op.where)
        v.roles.setdefault(0, "norm")
    outer, inner = split_product(axes[1], op.arg("group" if native else "num_groups"))
    op.sizes.update(num_channels=axes[1], num_groups=outer)
    mixing(inner, op.reason("statistics"))
    if isinstance(op.out, Value):
        return axes
    return [axes, *([axes[0], find(outer)] for _ in op.out[1:])]


@rule("weight_norm", "_weight_norm _weight_norm_interface")
def weight_norm(op: Op) -> Any:
    """v * g / |v|: the norm mixes every dimension but `dim`."""
    v, g = op.args[0], op.args[1]
    d = op.arg("dim", 0)
    axes: Axes = list(v.axes)
    for i, a in enumerate(g.axes):
        if g.shape[i] != 1:
            axes[i] = unify(axes[i], a, op.where)
            g.roles.setdefault(i, "norm")
    for i, a in enumerate(axes):
        if i != d:
            mixing(a, op.reason("weight norm"))
    if isinstance(op.out, Value):
        return axes
    return [axes, [axes[i] if n != 1 else UNIT for i, n in enumerate(op.out[1].shape)]]
