"""What a module is called with, whatever way it is passed: by position, by keyword, or as a default."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from torch import Tensor, nn

from sartor.structure.example import tensors

Signature = dict[str, Any]  # argument -> its value as JSON, with "*" for tensors; defaults are left out
TENSOR = "*"


@dataclass(frozen=True)
class Forward:
    """The parameters of a module's forward."""

    positional: tuple[str, ...]
    defaults: Mapping[str, Any]  # of the parameters whose default JSON can hold
    reads: frozenset[str] | None  # parameters that its code reads; None: unknown
    takes_more: bool = False  # whether it has **keywords

    @classmethod
    @cache
    def of(cls, kind: type[nn.Module]) -> Forward:
        """Read off the signature of a module class."""
        function = inspect.unwrap(kind.forward)
        try:
            parameters = list(inspect.signature(function).parameters.values())[1:]
        except (TypeError, ValueError):
            return cls((), {}, None, takes_more=True)
        plain = {p.name: plain_value(p.default) for p in parameters if p.default is not p.empty}
        return cls(
            tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)),
            {name: value for name, value in plain.items() if not is_opaque(value)},
            _read_names(function),
            any(p.kind == p.VAR_KEYWORD for p in parameters),
        )


def _read_names(function: Any) -> frozenset[str] | None:
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    found: set[str] = set()
    for step in dis.get_instructions(code):
        if step.opname.startswith("LOAD"):
            found.update(step.argval if isinstance(step.argval, tuple) else [step.argval])
    return frozenset(x for x in found if isinstance(x, str))


def bound(
    positional: Sequence[str], defaults: Mapping[str, Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Argument -> value, without those that equal their default and without further keywords that are None.

    >>> bound(("x", "mask"), {"mask": None}, (1, None), {"more": None, "scale": 2})
    {'x': 1, 'scale': 2}
    """
    names = [*positional, *(f"*{i}" for i in range(len(positional), len(args)))]
    values = {**dict(zip(names, args)), **kwargs}
    return {n: v for n, v in values.items() if isinstance(v, Tensor) or not _is_default(n, v, positional, defaults)}


def _is_default(name: str, value: Any, positional: Sequence[str], defaults: Mapping[str, Any]) -> bool:
    if name in defaults:
        default = defaults[name]
        if default is None or value is None:
            return value is default
        return isinstance(default, bool) == isinstance(value, bool) and bool(plain_value(value) == default)
    return value is None and name not in positional


def in_order(positional: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments in the order of the parameters, the other keywords after them by name."""
    first = [n for n in positional if n in values]
    return {n: values[n] for n in [*first, *sorted(set(values) - set(first))]}


def signature_of(values: Mapping[str, Any]) -> Signature | None:
    """The signature of bound arguments; None if JSON cannot hold one of them."""
    plain = {name: plain_value(v) for name, v in values.items()}
    return None if any(is_opaque(v) for v in plain.values()) else plain


def tensors_of(values: Mapping[str, Any], order: Sequence[str]) -> list[Tensor]:
    """Every tensor among bound arguments, argument by argument."""
    return [t for name in order for t in tensors(values[name])]


def plain_value(x: Any) -> Any:
    """A value as JSON, with "*" for tensors and {"type": name} for what JSON cannot hold.

    >>> plain_value((Tensor([1]), None, {"a": 1.5}))
    ['*', None, {'a': 1.5}]
    """
    if isinstance(x, Tensor):
        return TENSOR
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, list | tuple):
        return [plain_value(v) for v in x]
    if isinstance(x, dict):
        return {str(k): plain_value(v) for k, v in x.items()}
    return {"type": type(x).__name__}


def is_opaque(plain: Any) -> bool:
    """Whether a plain value stands for something that JSON cannot hold."""
    if isinstance(plain, dict):
        return set(plain) == {"type"} or any(map(is_opaque, plain.values()))
    return isinstance(plain, list) and any(map(is_opaque, plain))


__all__ = [
    "TENSOR", "Forward", "Signature", "bound", "in_order", "is_opaque", "plain_value", "signature_of", "tensors_of",
]  # fmt: skip
