"""Watch the operators that a forward runs: a dispatch mode that sees every operator a rule describes.

Inference mode keeps composite operators (linear, attention, LSTM) whole. An operator without a rule is decomposed into
the operators it consists of.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sartor.structure.functions import FunctionOp, seen_whole
from sartor.structure.model_copy import ATOMS, modules_of
from sartor.structure.rules.registry import facts
from sartor.structure.rules.shapes import META
from sartor.torch_internals import MODULE_CALL, TENSOR_BASE, OpOverload, TorchDispatchMode, outside_modes

_SILENT = {"aten::detach", "aten::_assert_tensor_metadata"}  # come and go with what holds a tensor alive
_MOVES = {"aten::to", "aten::_to_copy"}


class Watch(TorchDispatchMode):
    """Calls `see(func, args, kwargs, out, path)` for every operator that has a rule; decomposes the others."""

    def __init__(
        self,
        paths: Mapping[int, str] | None,
        see: Callable[..., None],
        *,
        meta: bool,
        instead: Callable[..., Any] | None = None,
        same: Callable[[Tensor, Tensor], None] | None = None,
    ):
        super().__init__()
        self.paths, self.see, self.meta, self.instead, self.same = paths, see, meta, instead, same
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        known = facts(func)
        if known.rule is None:
            if func.namespace == "prim":
                return func(*args, **kwargs)
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        if self.meta:
            for a in args:
                numbers = type(a) in ATOMS or (type(a) is list and a and type(a[0]) is int)
                if not (numbers or (isinstance(a, Tensor) and a.is_meta)):
                    args = self._to_meta(args)
                    break
            if kwargs:
                kwargs = self._to_meta(kwargs)
            if known.takes_device:
                kwargs = {**kwargs, "device": META}
            if known.name in _MOVES and any(isinstance(a, torch.device) for a in args):
                args = tuple(META if isinstance(a, torch.device) else a for a in args)
        out = NotImplemented if self.instead is None else self.instead(func, args, kwargs)
        if out is NotImplemented and self.meta and known.meta is not None and not types:
            out = known.meta(*args, **kwargs)
            if known.in_place and out is not NotImplemented:
                out = args[0] if out.shape == args[0].shape else NotImplemented
        if out is NotImplemented:
            out = func(*args, **kwargs)
        if known.name not in _SILENT:
            self.see(func, args, kwargs, out, "" if self.paths is None else caller(self.paths))
        elif self.same is not None and isinstance(out, Tensor):
            self.same(args[0], out)
        return out

    def function(self, op: FunctionOp, apply: Callable[..., Any], args: Any) -> Any:
        """Run an autograd.Function that has a rule as one operator, without recording what it consists of."""
        known = facts(op)  # type: ignore[arg-type]
        if self.meta:
            args = self._to_meta(args)
        with outside_modes():
            out = known.meta(*args) if self.meta and known.meta is not None else apply(*args)
        self.see(op, args, {}, out, "" if self.paths is None else caller(self.paths))
        return out

    def _to_meta(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            if x.is_meta:
                return x
            if id(x) not in self._moved:
                moved = x.to(META)
                moved.__dict__["_number"] = constant_number(x)
                self._moved[id(x)] = (x, moved)
            return self._moved[id(x)][1]
        if isinstance(x, tuple | list):
            if any(isinstance(v, Tensor | list | tuple) for v in x):
                return type(x)([self._to_meta(v) for v in x])
            return x
        return {k: self._to_meta(v) for k, v in x.items()} if isinstance(x, dict) else x


def constant_number(t: Tensor) -> float | None:
    """The element of a tensor on the CPU that holds one; also of one that was moved to meta here."""
    if t.is_meta:
        number: float | None = t.__dict__.get("_number")
        return number
    plain = t.numel() == 1 and t.device.type == "cpu" and (t.is_floating_point() or t.dtype == torch.int64)
    return t.item() if plain else None


def caller(paths: Mapping[int, str]) -> str:
    """The path of the innermost module being called, from Python's call stack: no module needs a hook.

    Args:
        paths: id of a module -> its path. A call of any other module belongs to the module that calls it.
    """
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is MODULE_CALL:
            path = paths.get(id(frame.f_locals["self"]))
            if path is not None:
                return path
        frame = frame.f_back  # type: ignore[assignment]
    return ""


_watchers, _lock = 0, threading.Lock()


@contextmanager
def _every_contiguous() -> Iterator[None]:
    """`x.contiguous()` runs as an operator even where x is contiguous already.

    Otherwise the recorded calls would depend on strides, and so on the device, the batch size and the widths. A
    function mode would have the same effect, but slows down every other call. Other threads see no difference.
    """
    global _watchers
    with _lock:
        _watchers += 1
        torch.Tensor.contiguous = _contiguous  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        with _lock:
            _watchers -= 1
            if not _watchers:
                del torch.Tensor.contiguous  # the method of the base class is found again


def _contiguous(x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    if torch.overrides.has_torch_function_unary(x):
        return TENSOR_BASE.contiguous(x, memory_format=memory_format)
    return torch.ops.aten.contiguous.default(x, memory_format=memory_format)


@contextmanager
def watching(
    model: nn.Module | None,
    see: Callable[..., None],
    *,
    meta: bool,
    instead: Callable[..., Any] | None = None,
    same: Callable[[Tensor, Tensor], None] | None = None,
) -> Iterator[None]:
    """Watch the operators that run inside.

    Args:
        model: whose module paths are given to `see`; None: `see` is given empty paths, which takes less time.
        see: called as see(func, args, kwargs, out, path of the calling module) after each operator.
        meta: run every operator on meta tensors.
        instead: may compute the result of an operator itself; called as instead(func, args, kwargs), it returns
            NotImplemented for operators that run as usual.
        same: called as same(x, y) where y is x under another name (`detach`); `see` is not called for those.
    """
    paths = None if model is None else {id(module): path for module, path in modules_of(model).items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        watch = Watch(paths, see, meta=meta, instead=instead, same=same)
        with torch.inference_mode(), watch, _every_contiguous(), seen_whole(watch.function):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


__all__ = ["Watch", "caller", "constant_number", "watching"]
