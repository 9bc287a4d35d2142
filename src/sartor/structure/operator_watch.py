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
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from sartor.structure.functions import FunctionOp, seen_whole
from sartor.structure.model_copy import ATOMS, modules_of
from sartor.structure.rules.registry import facts
from sartor.structure.rules.shapes import META

_BASE: Any = torch._C.TensorBase
_SILENT = {"aten::detach", "aten::_assert_tensor_metadata"}  # come and go with what holds a tensor alive
_MOVES = {"aten::to", "aten::_to_copy"}
_CALL = nn.Module._wrapped_call_impl.__code__  # what `module(...)` runs


class Watch(TorchDispatchMode):
    """Calls `see(func, args, kwargs, out, path)` for every operator a rule speaks of; takes the others apart."""

    def __init__(
        self,
        paths: Mapping[int, str],
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
            self.see(func, args, kwargs, out, caller(self.paths))
        elif self.same is not None and isinstance(out, Tensor):
            self.same(args[0], out)
        return out

    def function(self, op: FunctionOp, apply: Callable[..., Any], args: Any) -> Any:
        """Run an autograd.Function with a rule, without a look inside."""
        known = facts(op)  # type: ignore[arg-type]
        if self.meta:
            args = self._to_meta(args)
        with _disable_current_modes():
            out = known.meta(*args) if self.meta and known.meta is not None else apply(*args)
        self.see(op, args, {}, out, caller(self.paths))
        return out

    def _to_meta(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            if x.is_meta:
                return x
            if id(x) not in self._moved:
                self._moved[id(x)] = (x, x.to(META))
            return self._moved[id(x)][1]
        if isinstance(x, tuple | list):
            if any(isinstance(v, Tensor | list | tuple) for v in x):
                return type(x)([self._to_meta(v) for v in x])
            return x
        return {k: self._to_meta(v) for k, v in x.items()} if isinstance(x, dict) else x


def caller(paths: Mapping[int, str]) -> str:
    """The path of the innermost module being called; read off Python's stack, so that no module needs a hook.

    Args:
        paths: id of a module -> its path; the calls of other modules belong to whoever calls them.
    """
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code is _CALL:
            path = paths.get(id(frame.f_locals["self"]))
            if path is not None:
                return path
        frame = frame.f_back  # type: ignore[assignment]
    return ""


_watchers, _lock = 0, threading.Lock()


@contextmanager
def _every_contiguous() -> Iterator[None]:
    """`x.contiguous()` is an operator also where it has nothing to do: else the calls would change with the strides,
    and those with the device, the batch and the widths.

    A function mode would do it too, but slows every other call. The result is the same for all threads.
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
                del torch.Tensor.contiguous  # PyTorch's own, of the base class, comes to light again


def _contiguous(x: Tensor, memory_format: torch.memory_format = torch.contiguous_format) -> Tensor:
    if torch.overrides.has_torch_function_unary(x):
        return _BASE.contiguous(x, memory_format=memory_format)
    return torch.ops.aten.contiguous.default(x, memory_format=memory_format)


@contextmanager
def watching(
    model: nn.Module,
    see: Callable[..., None],
    *,
    meta: bool,
    instead: Callable[..., Any] | None = None,
    same: Callable[[Tensor, Tensor], None] | None = None,
) -> Iterator[None]:
    """Watch the operators of everything run inside, with the path of the module that calls them.

    `instead(func, args, kwargs)` may give the result of an operator itself, or NotImplemented. `same(x, y)` is told
    that y is x under another name (`detach`), of which `see` hears nothing.
    """
    paths = {id(module): path for module, path in modules_of(model).items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        watch = Watch(paths, see, meta=meta, instead=instead, same=same)
        with torch.inference_mode(), watch, _every_contiguous(), seen_whole(watch.function):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


__all__ = ["Watch", "caller", "watching"]
