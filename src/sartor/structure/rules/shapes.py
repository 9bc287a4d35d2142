"""Outputs on meta tensors, computed here for hot operators.

PyTorch's meta kernels are mostly Python: up to milliseconds a call. A meta rule stands beside the rule of its operator,
takes the operator's own arguments, and gives what PyTorch's meta kernel would give: shape, dtype, and the strides of
dimensions longer than 1. Where it is not sure it gives NotImplemented; then PyTorch's kernel runs, and says itself what
is wrong with a call.
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
    """Whether these are dense tensors of one floating dtype, those that are None aside."""
    kind = None
    for t in given:
        if t is not None:
            if kind is None:
                kind = t.dtype
            if t.dtype is not kind or t.layout is not torch.strided:
                return False
    return kind in FLOATS


def packed(x: Tensor) -> bool:
    """Contiguous, in the strides of dimensions of size 1 as well: no other memory format is meant."""
    step = 1
    for n, stride in zip(reversed(x.shape), reversed(x.stride())):
        if stride != step:
            return False
        step *= n
    return step > 0


def _dense(x: Tensor) -> bool:
    """Every element at a place of its own, without gaps."""
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
    """Operands of one dtype, laid out as the one that has the full shape; numbers have no say."""
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
    """How many windows fit along n elements."""
    return (n + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def spread(numbers: Any, n: int) -> list[int] | None:
    """A size argument for n spatial dimensions; None: it is something else."""
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
