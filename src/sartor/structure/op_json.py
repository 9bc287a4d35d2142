"""Operators and their arguments as JSON, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from sartor.torch_internals import OpOverload, overload_name, schema

KINDS = {"dtype": torch.dtype, "layout": torch.layout, "memory_format": torch.memory_format}


def operator_name(func: OpOverload) -> str:
    """ "aten::view.default"."""
    return f"{schema(func).name}.{overload_name(func)}"


def operator(name: str) -> OpOverload:
    """The inverse of `operator_name`; AttributeError if there is no such operator."""
    packet, _, overload = name.rpartition(".")
    space, _, short = packet.partition("::")
    found: OpOverload = getattr(getattr(getattr(torch.ops, space), short), overload)
    return found


def encoded(x: Any, *, value: Callable[[Any], Any]) -> Any:
    """One argument as JSON holds it; `value` encodes Values and any other type that is not known here.

    Raises:
        TypeError: `value` cannot encode it.
    """
    if isinstance(x, bool | int | str) or x is None:
        return x
    if isinstance(x, float):
        return x if abs(x) < float("inf") else {"float": str(x)}
    if isinstance(x, list | tuple):
        return [encoded(v, value=value) for v in x]
    if isinstance(x, torch.device):
        return {"device": True}
    for kind, cls in KINDS.items():
        if isinstance(x, cls):
            return {kind: str(x).removeprefix("torch.")}
    return value(x)
