"""Numbers that a forward computes from a width are kept at the original's value.

`q / q.size(-1) ** 0.5` divides by another number once q is narrower, so the cut network would not compute what the
zero-masked original computes. The shape check compares such numbers. A module that computes one runs its own forward;
in it, the number is replaced as an argument: by its value, in arithmetic and in `torch.tensor`.
"""

from __future__ import annotations

import copyreg
import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sartor.structure.calls import Op, Value
from sartor.structure.operator_watch import constant_number
from sartor.torch_internals import children_table

_ARITHMETIC = {"mul", "div", "add", "sub", "rsub", "pow", "addcmul", "addcdiv", "true_divide", "multiply", "divide"}
_MAKERS = {"tensor", "as_tensor", "new_tensor", "scalar_tensor", "asarray"}
_POSITIONS = {"arange", "linspace", "range"}  # their numbers are sizes
_ATTENTION = "scaled_dot_product_attention"
_PRECISION = 1e-6  # of a number that was rounded to float32


@dataclass(frozen=True)
class KeptNumber:
    """A number as the cut network's forward computes it, and the original's, which takes its place.

    kind: "argument" of arithmetic; "tensor", the one element of a constant tensor; or "attention": the width that an
    attention without `scale` derives its scale from.
    """

    kind: str
    new: float
    old: float


Numbers = Mapping[str, tuple[KeptNumber, ...]]  # by path of the module that computes them


@dataclass(frozen=True)
class Difference:
    """One operator that would compute with another number."""

    op: Op
    number: KeptNumber

    def __str__(self) -> str:
        n = self.number
        return f"{self.op.where} computes with {n.new:.6g}, which follows from a width; the original has {n.old:.6g}"


def differences(op: Op, args: Any, kwargs: Mapping[str, Any]) -> Iterator[Difference]:
    """The numbers of a call that are not those of the recorded operator, sizes left out.

    Args:
        op: of the original.
        args, kwargs: what the cut network calls it with.
    """
    if op.name in _POSITIONS:
        return
    if op.name == _ATTENTION and kwargs.get("scale") is None:
        scale, new = op.arg("scale"), args[0].shape[-1]
        old = op.args[0].shape[-1] if scale is None else scale**-2
        if not math.isclose(old, new, rel_tol=_PRECISION):
            yield Difference(op, KeptNumber("attention", new, old))
    pairs = [*zip(op.args, args), *((v, kwargs[k]) for k, v in op.kwargs.items() if k in kwargs)]
    for old, new in pairs:
        if isinstance(old, Value):
            if old.number is not None and isinstance(new, Tensor):
                got = constant_number(new)
                if got is not None and got != old.number:
                    yield Difference(op, KeptNumber("tensor", got, old.number))
        elif _is_number(old) and _is_number(new) and repr(old) != repr(new):
            if op.name not in _ARITHMETIC and type(old) is type(new) is int:
                continue  # a size, which the shapes show
            yield Difference(op, KeptNumber("argument", new, old))


def _is_number(x: Any) -> bool:
    return type(x) is int or type(x) is float


def to_keep(found: Iterable[Difference]) -> dict[str, tuple[KeptNumber, ...]]:
    """The numbers to replace, by module."""
    numbers: dict[str, dict[KeptNumber, None]] = {}
    for d in found:
        numbers.setdefault(d.op.path, {})[d.number] = None
    return {path: tuple(of_module) for path, of_module in numbers.items()}


class _Keeping(TorchFunctionMode):
    """Replaces the numbers of the calls that are made inside."""

    def __init__(self, numbers: Iterable[KeptNumber]):
        super().__init__()
        self._of: dict[str, list[tuple[float, float]]] = {}
        for n in numbers:
            self._of.setdefault(n.kind, []).append((n.new, n.old))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The call with the original's numbers."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").strip("_")
        if name == _ATTENTION:
            if kwargs.get("scale") is None and "attention" in self._of:
                width = (args[0] if args else kwargs["query"]).shape[-1]
                kept = _replaced(width, self._of["attention"])
                if kept != width:
                    kwargs = {**kwargs, "scale": kept**-0.5}
        elif name in _MAKERS:
            args = [_replaced(_plain(a), self._of.get("tensor", ()), _PRECISION) for a in args]
        elif "argument" in self._of and not (torch.jit.is_tracing() and _only_sizes(args)):
            whole = name.removeprefix("r").removeprefix("i") in _ARITHMETIC or name in ("truediv", "rtruediv", "rdiv")
            args = [self._argument(_plain(a) if whole and i else a, whole) for i, a in enumerate(args)]
            kwargs = {k: self._argument(a, whole) for k, a in kwargs.items()}
        return func(*args, **kwargs)

    def _argument(self, a: Any, whole: bool) -> Any:
        """An argument; integers are replaced in arithmetic only (`whole`), elsewhere they are sizes."""
        if type(a) is float or (whole and type(a) is int):
            return _replaced(a, self._of["argument"], _PRECISION if torch.jit.is_tracing() else 0.0)
        return a


def _only_sizes(args: Any) -> bool:
    """Whether a call computes with sizes alone: `torch.jit.trace` shows those calls too."""
    return all(not a.dim() for a in args if isinstance(a, Tensor))


def _plain(a: Any) -> Any:
    """A number as a number: `torch.jit.trace` makes a tensor of every size, and of what is computed from it."""
    if isinstance(a, Tensor) and not a.dim() and torch.jit.is_tracing():
        with warnings.catch_warnings():  # that the width is a constant of the graph is intended
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            return a.item()
    return a


def _replaced(a: Any, numbers: Iterable[tuple[float, float]], precision: float = 0.0) -> Any:
    if isinstance(a, int | float) and not isinstance(a, bool):
        for new, old in numbers:
            if a == new or (precision and math.isclose(a, new, rel_tol=precision)):
                return old
    return a


class NumbersKept(nn.Module):
    """A module that runs the forward of its class with the original's numbers; see `keep_numbers_`."""

    kept_numbers: tuple[KeptNumber, ...]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of the class."""
        with _Keeping(self.kept_numbers):
            return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *rest = reduced
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            return _empty, (type(self).__mro__[2], *args[1:]), *rest
        return make, args, *rest


@cache
def _subclass(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (NumbersKept, kind), names)


def _empty(kind: type[nn.Module], *args: Any) -> nn.Module:
    """A module of the class that keeps numbers, without any state: how pickle and copy begin."""
    new: nn.Module = kind.__new__(_subclass(cast(Any, kind)), *args)
    return new


def keep_numbers_(model: nn.Module, numbers: Numbers) -> nn.Module:
    """Let the modules at these paths compute with the original's numbers; returns the model, a new one for path ""."""
    for path, of_module in numbers.items():
        module = model.get_submodule(path)
        before = module.kept_numbers if isinstance(module, NumbersKept) else ()  # of an earlier cut
        kind = type(module) if before else _subclass(cast(Any, type(module)))
        new: nn.Module = object.__new__(kind)
        new.__dict__.update(module.__dict__)
        new.__dict__["kept_numbers"] = (*before, *of_module)
        if not path:
            return keep_numbers_(new, {p: n for p, n in numbers.items() if p})
        parent, _, name = path.rpartition(".")
        children_table(model.get_submodule(parent))[name] = new
    return model


def keeps_scale(module: nn.Module) -> bool:
    """Whether attention without a scale has the original's in this module."""
    return isinstance(module, NumbersKept) and any(n.kind == "attention" for n in module.kept_numbers)


__all__ = [
    "Difference", "KeptNumber", "Numbers", "NumbersKept", "differences", "keep_numbers_", "keeps_scale", "to_keep",
]  # fmt: skip
