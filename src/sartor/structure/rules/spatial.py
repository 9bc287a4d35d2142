"""Pooling, resizing and borders: spatial dimensions are frozen, channels are passed on."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sartor.structure.axes import Axes, find, fixed, freeze
from sartor.structure.calls import Op
from sartor.structure.rules.registry import Terms, freeze_values, rule, same_nesting
from sartor.structure.rules.shapes import alike, new, packed, spread, swept

_POOL = """max_pool{n}d_with_indices avg_pool{n}d adaptive_max_pool{n}d
 lp_pool{n}d mkldnn_max_pool{n}d _adaptive_avg_pool{n}d upsample_nearest{n}d _upsample_nearest_exact{n}d
 reflection_pad{n}d replication_pad{n}d"""
_NAMES = (
    " ".join(_POOL.format(n=n) for n in (1, 2, 3))
    + """ max_pool1d max_pool3d adaptive_avg_pool1d adaptive_avg_pool3d
 upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d _upsample_bilinear2d_aa
 _upsample_bicubic2d_aa grid_sampler grid_sampler_2d grid_sampler_3d fractional_max_pool2d fractional_max_pool3d"""
)


def _thop_macs(op: Op) -> Terms:
    """Adaptive average pooling counts (window area + 1) for each output."""
    if "adaptive_avg_pool" not in op.name:
        return []
    x, out = op.args[0], op.outputs[0]
    n = space(op)
    window = 1
    for a, b in zip(x.shape[-n:], out.shape[-n:]):
        window *= a // b
    return [[*out.axes, fixed(window + 1, op.reason("factor"))]]


def space(op: Op) -> int:
    """Number of spatial dimensions, from the operator's name."""
    return next(n for n in (3, 2, 1) if f"{n}d" in op.name or (n == 2 and op.name == "grid_sampler"))


def _scratch(op: Op) -> Terms:
    """Max pooling computes the 8-byte index of every output, even if the caller does not need it."""
    return (
        [[*op.outputs[0].axes, fixed(8, op.reason("factor"))]]
        if op.name in ("max_pool1d", "max_pool2d", "max_pool3d")
        else []
    )


def _pooled(x: Tensor, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1, ceil: bool = False) -> Any:
    kernel, pad = spread(kernel, 2), spread(padding, 2)
    if ceil or kernel is None or pad is None or x.ndim != 4 or not alike(x) or not packed(x):
        return NotImplemented
    if any(2 * p > k for p, k in zip(pad, kernel)):
        return NotImplemented
    return swept(x, x.shape[1], kernel, stride or kernel, pad, dilation)


def _adapted(x: Tensor, size: Any) -> Any:
    fits = x.ndim == 4 and len(size) == 2 and min(size) > 0 and 0 not in x.shape and alike(x) and packed(x)
    return new(x, [*x.shape[:2], *size]) if fits else NotImplemented


@rule("spatial", "max_pool2d", scratch=_scratch, meta=_pooled)
@rule("spatial", "adaptive_avg_pool2d", extra=_thop_macs, meta=_adapted)
@rule("spatial", _NAMES, extra=_thop_macs, scratch=_scratch)
def spatial(op: Op) -> Any:
    """[batch, channels, space...]: spatial dimensions are frozen, channels keep their axis."""
    x = op.args[0]
    lead = x.ndim - space(op)
    for a in x.axes[lead:]:
        freeze(a, op.reason("spatial"))
    freeze_values(op.inputs[1:], op.reason("spatial"))

    def axes(shape: tuple[int, ...]) -> Axes:
        return [*map(find, x.axes[:lead]), *(fixed(n, op.reason("spatial")) for n in shape[lead:])]

    return same_nesting(op, axes)


@rule("detection", "torchvision::roi_align torchvision::roi_pool")
def roi(op: Op) -> Axes:
    """[boxes, channels, ...] from [batch, channels, ...]."""
    x = op.args[0]
    for a in [*x.axes[2:], *op.args[1].axes]:
        freeze(a, op.reason("boxes"))
    first = op.outputs[0].shape
    return [fixed(first[0], op.reason("boxes")), x.axes[1], *(fixed(n, op.reason("spatial")) for n in first[2:])]
