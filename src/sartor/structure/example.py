"""Example inputs: one tensor, a tuple of positional arguments, or a dict of keyword arguments."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sartor.errors import BadInput

Example = Any


def as_args(example: Example) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """(positional, keyword) arguments of the forward.

    >>> as_args(torch.ones(2))[0][0].shape, as_args({"x": 1})[1]
    (torch.Size([2]), {'x': 1})
    """
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, tuple | list):
        return tuple(example), {}
    if isinstance(example, Tensor):
        return (example,), {}
    raise BadInput(f"example inputs: expected a tensor, a tuple of arguments or a dict; got {type(example).__name__}")


def call(model: nn.Module, example: Example) -> Any:
    """model(*args, **kwargs)."""
    args, kwargs = as_args(example)
    return model(*args, **kwargs)


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor inside nested tuples, lists, dicts and output objects, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from tensors(v)
    elif isinstance(value, list | tuple):
        for v in value:
            yield from tensors(v)
    elif hasattr(value, "__dict__") and not isinstance(value, nn.Module | type):
        yield from tensors(vars(value))


def call_in_training(model: nn.Module, example: Example) -> Any:
    """`call` in training mode.

    Raises:
        BadInput: batch norm has one value for each channel, from which it cannot compute a variance.
    """
    try:
        return call(model, example)
    except ValueError as e:
        if "more than 1 value per channel" not in str(e):
            raise
        raise BadInput(
            f"a batch of {batch_of(example)} sample came, and batch norm in training needs more values; pass a loader "
            "with drop_last=True, or another batch size"
        ) from e


def map_tensors(f: Callable[[Tensor], Any], value: Any) -> Any:
    """The same nested structure with f applied to every tensor."""
    if isinstance(value, Tensor):
        return f(value)
    if isinstance(value, Mapping):
        return {k: map_tensors(f, v) for k, v in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(f, v) for v in value))
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(f, v) for v in value)
    return value


def first_tensor(output: Any) -> Tensor:
    """The main tensor of an output: the output itself, its `logits`, or the first tensor in it."""
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    for t in tensors(output):
        return t
    raise BadInput(f"model output: expected at least one tensor; got {type(output).__name__}")


def batch_of(example: Example) -> int:
    """The batch size: length of dimension 0 of the first tensor that has dimensions."""
    for t in tensors(example):
        if t.dim():
            return int(t.shape[0])
    raise BadInput("example inputs: expected at least one tensor with a batch dimension; got none")


def with_batch(example: Example, n: int) -> Example:
    """The example with n samples: every tensor whose dimension 0 has the batch size is repeated or truncated."""
    old = batch_of(example)
    if n and not old:
        raise BadInput("example inputs: expected at least one sample; the batch is empty")

    def resize(t: Tensor) -> Tensor:
        if not t.dim() or t.shape[0] != old:
            return t
        return torch.cat([t] * (-(-n // old)))[:n] if n else t[:0]

    return map_tensors(resize, example)


def to_device(example: Example, device: torch.device | str) -> Example:
    """Every tensor moved."""
    return map_tensors(lambda t: t.to(device), example)
