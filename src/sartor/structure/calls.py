"""Operator calls of a recorded forward, and the values between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, TypeVar

import torch

from sartor.structure.axes import UNIT, Axes, Axis, find, fixed, new_size
from sartor.torch_internals import OpOverload, schema
from sartor.types import Reason, Role

T = TypeVar("T")


@dataclass(eq=False, slots=True)
class Value:
    """A tensor of the forward: its shape, its axes (set by the solver) and the memory it uses."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    storage: int  # number of its storage; views of one tensor have the same
    name: str | None = None  # parameter or buffer
    origin: str = "a constant tensor"  # "input", "parameter", "buffer", "op" or "a constant tensor"
    axes: Axes = field(default_factory=list)
    roles: dict[int, Role] = field(default_factory=dict)
    died: int | None = None  # number of operators recorded when it was freed; None: it outlived the forward
    number: float | None = None  # the one element of a constant tensor, such as `torch.tensor(width)`

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def numel(self, kept: Mapping[Axis, int]) -> int:
        """Elements once `kept[leaf]` units stay."""
        return math.prod(new_size(a, kept) for a in self.axes)


@dataclass(eq=False, slots=True)
class Op:
    """One operator call, with Values in place of tensors."""

    index: int
    func: OpOverload
    path: str  # of the module whose forward called it
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any  # Value, or a list of Values and None
    live: bool = True  # its result reaches an output, memory or Python
    followed: bool = True  # its axes are solved: it is live, or a dead operator with parameters needs its result
    kind: str = ""  # rule family
    ties: list[Axes] = field(default_factory=list)  # axes that must keep equal sizes
    sizes: dict[str, Axis | Axes] = field(default_factory=dict)  # module attribute -> the axes whose size it states
    _inputs: list[Value] | None = field(default=None, init=False, repr=False)

    @property
    def name(self) -> str:
        """Name without namespace and without the underscore of in-place forms: "conv2d", "relu"."""
        return short_name(self.func)

    @property
    def where(self) -> str:
        """Operator and module, for messages: "conv2d in layer1.0"."""
        return f"{self.name} in {self.path or 'the model'}"

    def reason(self, kind: str, detail: str = "") -> Reason:
        """This operator as the reason for a frozen or mixed axis; `kind` is a key of `reasons.SENTENCES`."""
        return Reason(kind, self.name, self.path, detail)

    def arg(self, name: str, default: Any = None) -> Any:
        """An argument by its name in the schema; `default` if the call leaves it out and the schema has no default."""
        if name in self.kwargs:
            return self.kwargs[name]
        place = _argument_places(self.func).get(name)
        if place is None:
            return default
        i, schema_default = place
        if i < len(self.args):
            return self.args[i]
        return schema_default if schema_default is not None else default

    @property
    def inputs(self) -> list[Value]:
        """Every Value among the arguments, in order."""
        if self._inputs is None:
            self._inputs = found = []
            for x in self.args:
                if isinstance(x, Value):
                    found.append(x)
                elif isinstance(x, list | tuple):
                    found += values(x)
            if self.kwargs:
                found += values(self.kwargs)
        return self._inputs

    @property
    def outputs(self) -> list[Value]:
        """Every Value among the results."""
        return [self.out] if isinstance(self.out, Value) else list(values(self.out))

    @property
    def mutates(self) -> bool:
        """Whether it writes to an argument."""
        return schema(self.func).is_mutable


def values(x: Any) -> Iterator[Value]:
    """Values inside nested sequences and mappings."""
    if isinstance(x, Value):
        yield x
    elif isinstance(x, list | tuple):
        for v in x:
            yield from values(v)
    elif isinstance(x, dict):
        for v in x.values():
            yield from values(v)


def once_each(f: Callable[[OpOverload], T]) -> Callable[[OpOverload], T]:
    """Cache a function of one overload by identity; hashing an overload would call Python code each time."""
    known: dict[int, tuple[OpOverload, T]] = {}

    @wraps(f)
    def cached(func: OpOverload) -> T:
        entry = known.get(id(func))
        if entry is None:
            entry = known[id(func)] = (func, f(func))
        return entry[1]

    return cached


@once_each
def short_name(func: OpOverload) -> str:
    """ "aten::relu_" -> "relu"."""
    name = schema(func).name.split("::")[-1]
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


@once_each
def _argument_places(func: OpOverload) -> dict[str, tuple[int, Any]]:
    return {
        a.name: (i, a.default_value if a.has_default_value() else None) for i, a in enumerate(schema(func).arguments)
    }


@once_each
def argument_names(func: OpOverload) -> list[str]:
    """The names of an operator's arguments, in the order of its schema."""
    return list(_argument_places(func))


def dims(d: Any, n: int) -> list[int]:
    """Dimension arguments as non-negative ints; None or an empty list means all dimensions."""
    if d is None or (isinstance(d, list | tuple) and not d):
        return list(range(n))
    return [x % n if n else 0 for x in ([d] if isinstance(d, int) else d)]


def dim(d: int, n: int) -> int:
    """One dimension argument as a non-negative int."""
    return d % n if n else 0


def frozen_axes(shape: tuple[int, ...], why: Reason | str) -> Axes:
    """Axes that cannot be cut."""
    return [fixed(n, why) for n in shape]


__all__ = ["UNIT", "Op", "Value", "argument_names", "dim", "dims", "find", "frozen_axes", "short_name", "values"]
