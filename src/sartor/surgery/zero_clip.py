"""Rectifiers that give zero above a limit: a value that no input reaches is taken for the result of a fault.

A weight whose exponent bit flips sends huge values through the network. What a rectifier reads is compared with the
largest value that it read before; what is larger, or is not a number, becomes zero. Modules keep their names,
parameters and state, so saved weights and exports are as before.

Source: Hoang et al. 2020 (FT-ClipAct), arXiv:1912.00941, section IV.
"""

from __future__ import annotations

import copyreg
import math
import threading
from collections.abc import Mapping
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from sartor.errors import BadInput
from sartor.structure import Graph
from sartor.structure.model_copy import every_path, modules_by_path
from sartor.surgery.kept_numbers import NumbersKept
from sartor.surgery.program import Rewritten
from sartor.torch_internals import children_table

Clips = Mapping[str, tuple[float, ...]]  # module path -> the limit of each rectifier that one forward of it calls
RECTIFIERS = ("relu", "relu6", "hardtanh")


class _Clipping(TorchFunctionMode):
    """Limits what rectifiers read, in the forward of one module and not in those of its children."""

    def __init__(self, limits: tuple[float, ...], largest: list[float] | None):
        super().__init__()
        self.limits, self.largest, self.calls = limits, largest, 0

    def __enter__(self) -> Any:
        _running().append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _running().pop()
        super().__exit__(*error)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """The call; a rectifier reads zero in place of what lies above its limit or is not a number."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").rstrip("_")
        if name not in RECTIFIERS or _running()[-1] is not self:
            return func(*args, **kwargs)
        place, self.calls = self.calls, self.calls + 1
        if place >= len(self.limits):
            return func(*args, **kwargs)
        x = args[0] if args else kwargs["input"]
        if self.largest is not None and x.numel():
            self.largest[place] = max(self.largest[place], float(x.detach().amax()))
        limit = self.limits[place]
        if math.isinf(limit):
            return func(*args, **kwargs)
        clipped = torch.where(x <= limit, x, torch.zeros_like(x))
        if func.__name__.endswith("_") or kwargs.get("inplace") or any(a is True for a in args[1:]):
            x.copy_(clipped)  # whoever reads the tensor that it writes to sees the limit, too
            return func(*args, **kwargs)
        return func(clipped, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})


_OF_THREAD = threading.local()


def _running() -> list[_Clipping]:
    """The forwards of clipped modules that run in this thread, the innermost last."""
    stack: list[_Clipping] | None = getattr(_OF_THREAD, "stack", None)
    if stack is None:
        stack = _OF_THREAD.stack = []
    return stack


class ZeroClipped(nn.Module):
    """A module whose forward runs with limits on its rectifiers; see `clip_`."""

    _zero_clips: tuple[float, ...]
    _largest: list[float] | None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward of the class."""
        with _Clipping(self._zero_clips, self._largest):
            return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *rest = reduced
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            return _empty, (plain_class(type(self)), *args[1:]), *rest
        return make, args, *rest


@cache
def _subclass(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (ZeroClipped, kind), names)


def _empty(kind: type[nn.Module], *args: Any) -> nn.Module:
    """A module of the clipped class without any state: how pickle and copy begin."""
    new: nn.Module = kind.__new__(_subclass(cast(Any, kind)), *args)
    return new


def plain_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The class of a module without limits on its rectifiers."""
    return cast("type[nn.Module]", kind.__mro__[2]) if issubclass(kind, ZeroClipped) else kind


def clip_(model: nn.Module, clips: Clips, *, record: bool = False) -> nn.Module:
    """Let the modules at these paths clip their rectifiers; returns the model, a new one for path "".

    Args:
        model: changed.
        clips: limits by module path; an infinite one leaves that rectifier as it is.
        record: whether the largest value that each rectifier reads is kept, for `largest_read`.

    Raises:
        BadInput: no module is at a path, or its forward was rewritten, so that it calls no rectifier of its own.
    """
    for path, limits in clips.items():
        places = every_path(model)
        module = places.get(path)
        if module is None:
            raise BadInput(f"the model has no module {path!r} whose activations the edits clip")
        if not _runs_its_own(places, path):
            raise BadInput(f"module {path!r}: its forward was changed by the cut, so its activations cannot be clipped")
        kind = type(module) if isinstance(module, ZeroClipped) else _subclass(cast(Any, type(module)))
        new: nn.Module = object.__new__(kind)
        new.__dict__.update(module.__dict__)
        new.__dict__.update(_zero_clips=tuple(limits), _largest=[0.0] * len(limits) if record else None)
        if not path:
            return clip_(new, {p: c for p, c in clips.items() if p}, record=record)
        for place in [p for p, m in places.items() if m is module]:  # one module may have several places
            parent, _, name = place.rpartition(".")
            children_table(places[parent])[name] = new
    return model


def _runs_its_own(places: Mapping[str, nn.Module], path: str) -> bool:
    """Whether the forward of a module's class is called, and computes with numbers of its own."""
    parts = path.split(".") if path else []
    above = [places[".".join(parts[:i])] for i in range(len(parts) + 1)]
    return not isinstance(above[-1], NumbersKept) and not any(isinstance(m, Rewritten) for m in above)


def clips_of(model: nn.Module) -> dict[str, tuple[float, ...]]:
    """The limits of a model that was clipped."""
    return {path: m._zero_clips for path, m in modules_by_path(model).items() if isinstance(m, ZeroClipped)}


def largest_read(model: nn.Module) -> dict[str, tuple[float, ...]]:
    """What `clip_(..., record=True)` kept since: the largest value that each rectifier read."""
    return {
        path: tuple(m._largest)
        for path, m in modules_by_path(model).items()
        if isinstance(m, ZeroClipped) and m._largest is not None
    }


def rectifiers(graph: Graph, model: nn.Module) -> dict[str, int]:
    """Module path -> how many rectifiers its forwards call, for modules that can be clipped.

    Args:
        graph: of the model, or of the one that it was cut from.
        model: whose modules are looked at.
    """
    places = every_path(model)
    found: dict[str, int] = {}
    for op in graph.ops:
        if op.live and op.name in RECTIFIERS and op.path in places and _runs_its_own(places, op.path):
            found[op.path] = found.get(op.path, 0) + 1
    return found


__all__ = ["Clips", "ZeroClipped", "clip_", "clips_of", "largest_read", "plain_class", "rectifiers"]
