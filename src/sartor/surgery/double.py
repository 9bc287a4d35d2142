"""A network and its forward in double precision, whatever precision the forward asks for on its way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sartor.structure.calls import once_each
from sartor.structure.example import Example, map_tensors
from sartor.structure.model_copy import clone, named_tensors
from sartor.torch_internals import OpOverload, TorchDispatchMode, schema

_LOWER = {torch.float32, torch.float16, torch.bfloat16}


def in_double(model: nn.Module) -> nn.Module:
    """A copy whose floating-point parameters and buffers are in float64."""
    return clone(model, lambda t: t.detach().double() if t.dtype in _LOWER else t.detach().clone())


def to_double_(model: nn.Module) -> nn.Module:
    """Convert floating-point parameters and buffers to float64 in place; returns the model."""
    for *_, t in list(named_tensors(model)):
        if t.dtype in _LOWER:
            t.data = t.detach().double()
    return model


def example_in_double(example: Example) -> Example:
    """The inputs, with floating-point tensors in float64."""
    return map_tensors(_double, example)


def _double(t: Tensor) -> Tensor:
    return t.double() if t.dtype in _LOWER else t


@once_each
def _written(func: OpOverload) -> tuple[bool, ...]:
    """Which arguments an operator writes to."""
    return tuple(a.alias_info is not None and a.alias_info.is_write for a in schema(func).arguments)


class DoubleThroughout(TorchDispatchMode):
    """Inside, every operator computes in float64: one that is asked for a lower precision, or given it, too.

    Many norms and softmaxes are written with `x.float()`; without this mode they would round a forward in float64.
    """

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = {k: self._raised(v) for k, v in (kwargs or {}).items()}
        written = _written(func)
        mutates = any(written)
        args = tuple(a if mutates and i < len(written) and written[i] else self._raised(a) for i, a in enumerate(args))
        out = func(*args, **kwargs)
        return out if mutates else self._raised(out)

    def _raised(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            return x.double() if x.dtype in _LOWER and not x.is_quantized else x
        if isinstance(x, torch.dtype):
            return torch.float64 if x in _LOWER else x
        if type(x) in (list, tuple) and any(isinstance(v, Tensor) for v in x):
            return type(x)(self._raised(v) for v in x)
        return x


__all__ = ["DoubleThroughout", "example_in_double", "in_double", "to_double_"]
