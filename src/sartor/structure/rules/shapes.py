"""Outputs of frequent operators on meta tensors.

PyTorch's meta kernels are mostly Python and take up to milliseconds a call. A meta rule is registered with the rule of
its operator. It takes the operator's own arguments and returns what PyTorch's meta kernel would return: shape, dtype,
and the strides of dimensions longer than 1. For a call it does not cover it returns NotImplemented; PyTorch's kernel
then runs, and reports errors in the call itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

META = torch.device("meta")
FLOATS = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})


def new(x: Tensor, shape: Sequence[int]) -> Tensor:
    """A contiguous meta tensor with the dtype of x."""
    return torch.empty(shape, dtype=x.dtype, device=META)


def alike(*given: Tensor | None) -> bool:
    """Whether all of these that are not None are dense tensors of one floating dtype."""
    kind = None
    for t in given:
        if t is not None:
            if kind is None:
                kind = t.dtype
            if t.dtype is not kind or t.layout is not torch.strided:
                return False
    return kind in FLOATS


def packed(x: Tensor) -> bool:
    """Whether x is contiguous, including the strides of dimensions of size 1, so that no other memory format fits."""
    step = 1
    for n, stride in zip(reversed(x.shape), reversed(x.stride())):
        if stride != step:
            return False
        step *= n
    return step > 0


def _dense(x: Tensor) -> bool:
    """Whether every element has an address of its own and there are no gaps."""
    step = 1
    for stride, n in sorted((s, n) for s, n in zip(x.stride(), x.shape) if n != 1):
        if stride != step:
            return False
        step *= n
    return step > 0


def _spreads(small: Sequence[int], large: Sequence[int]) -> bool:
    """Whether one shape broadcasts to the other."""
    return len(small) <= len(large) and all(a in (1, b) for a, b in zip(reversed(small), reversed(large)))


def elementwise(x: Any, *others: Any, alpha: Any = 1, approximate: Any = None) -> Any:
    """An elementwise result, with the layout of the operand that has the full shape; Python numbers are ignored."""
    if not isinstance(x, Tensor) or not alike(x):
        return NotImplemented
    lead, shape = x, x.shape
    for y in others:
        if isinstance(y, Tensor):
            if not alike(x, y):
                return NotImplemented
            if y.shape == shape or _spreads(y.shape, shape):
                continue
            if not _spreads(shape, y.shape) or not lead.is_contiguous():
                return NotImplemented
            lead, shape = y, y.shape
        elif isinstance(y, complex):
            return NotImplemented
    if isinstance(alpha, complex):
        return NotImplemented
    if lead.is_contiguous():
        return new(x, shape)
    if lead is not x or not _dense(x):
        return NotImplemented
    return torch.empty_strided(shape, x.stride(), dtype=x.dtype, device=META)


def windows(n: int, kernel: int, stride: int, pad: int, dilation: int) -> int:
    """Number of windows along n elements."""
    return (n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def spread(numbers: Any, n: int) -> list[int] | None:
    """A size argument for n spatial dimensions; None if it has another form."""
    if isinstance(numbers, list | tuple):
        return list(numbers) if len(numbers) == n else list(numbers) * n if len(numbers) == 1 else None
    return [numbers] * n if type(numbers) is int else None


def swept(x: Tensor, channels: int, kernel: Iterable[int], stride: Any, padding: Any, dilation: Any) -> Any:
    """[batch, channels, space...] after a window of `kernel` ran over the space of x [batch, any, space...]."""
    kernel = list(kernel)
    n = len(kernel)
    stride, padding, dilation = spread(stride, n), spread(padding, n), spread(dilation, n)
    if stride is None or padding is None or dilation is None or min(stride) < 1 or min(dilation) < 1 or 0 in x.shape:
        return NotImplemented
    space = list(map(windows, x.shape[2:], kernel, stride, padding, dilation))
    if min(space) < 1 or min(padding) < 0 or min(kernel) < 1:
        return NotImplemented
    return new(x, [x.shape[0], channels, *space])
