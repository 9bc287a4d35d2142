"""Run a model once and write down its operator calls.

The forward runs under a dispatch mode on *meta* tensors, on a clone of the model that shares nothing: no arithmetic is
done, no weight is read, the user's model is not touched. Models whose control flow looks at values that hang on weights
run on real copies.
Inference mode keeps composite operators (linear, attention, LSTM) whole; one without a rule is taken apart instead.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from sartor.errors import CannotTrace
from sartor.structure.answers import Answers
from sartor.structure.calls import Op, Value
from sartor.structure.example import Example, as_args, batch_of, map_tensors, tensors, with_batch
from sartor.structure.functions import FunctionOp, seen_whole
from sartor.structure.rules.registry import facts
from sartor.structure.rules.shapes import META
from sartor.structure.shadow import ATOMS, clone, empty_like_on_meta, evaluating, modules_of, named_tensors

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


class Recording:
    """The operator calls of one forward, and the values between them."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.tensors: dict[str, Value] = {}  # parameters and buffers, by every name they have
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.example: Any = None
        self._seen: dict[int, _Held] = {}  # by id of a tensor that is alive
        self._memory: dict[int, _Memory] = {}  # by address, which goes to another storage once this one is gone
        self._storages = 0

    @classmethod
    def opened(cls, model: nn.Module, example: Example) -> Recording:
        """Before the first call: the model's tensors and the inputs are known."""
        rec = cls()
        rec.example = example
        for owner, key, name, t in named_tensors(model):
            origin = "parameter" if key in owner._parameters else "buffer"
            rec.tensors[name] = rec.value(t, origin, name)
        rec.inputs = [rec.value(t, "input") for t in tensors(example)]
        return rec

    def value(self, t: Tensor, origin: str = "a constant tensor", name: str | None = None) -> Value:
        """The Value of a tensor; made at first sight."""
        held = self._seen.get(id(t))
        if held is not None:
            return held.value
        return self._enter(t, None, name, origin)

    def same(self, known: Tensor, t: Tensor) -> None:
        """`t` is the Value that `known` is."""
        if id(t) not in self._seen:
            self._enter(t, self.value(known))

    def _enter(self, t: Tensor, v: Value | None, name: str | None = None, origin: str = "") -> Value:
        address = t.untyped_storage()._cdata
        memory = self._memory.get(address)
        if memory is None:
            memory = self._memory[address] = _Memory(self._storages, address)
            self._storages += 1
        memory.tensors += 1
        if v is None:
            v = Value(tuple(t.shape), t.dtype, memory.number, name, origin)
        held = self._seen[id(t)] = _Held(t, _gone)
        held.key, held.value, held.memory, held.rec = id(t), v, memory, self
        return v

    def see(self, func: OpOverload, args: Any, kwargs: Any, out: Any, path: str) -> None:
        """Write one call down."""
        op = Op(len(self.ops), func, path, self._values(args), self._values(kwargs) if kwargs else {}, None)
        self.ops.append(op)
        op.out = self.value(out, "op") if isinstance(out, Tensor) else map_tensors(lambda t: self.value(t, "op"), out)

    def _values(self, x: Any) -> Any:
        if type(x) in ATOMS:
            return x
        if isinstance(x, Tensor):
            return self.value(x)
        if type(x) is tuple or type(x) is list:
            return type(x)([self._values(v) for v in x])
        return map_tensors(self.value, x)


class _Memory:
    """A storage, and how many tensors in it are alive."""

    __slots__ = ("address", "number", "tensors")

    def __init__(self, number: int, address: int):
        self.number, self.address, self.tensors = number, address, 0


class _Held(weakref.ref[Tensor]):
    """Sees a tensor go."""

    __slots__ = ("key", "memory", "rec", "value")
    key: int
    value: Value
    memory: _Memory
    rec: Recording


def _gone(held: Any) -> None:
    held.value.died = len(held.rec.ops)
    held.rec._seen.pop(held.key, None)
    held.memory.tensors -= 1
    if not held.memory.tensors:
        held.rec._memory.pop(held.memory.address, None)


def record(model: nn.Module, example: Example) -> Recording:
    """The operator calls of model(example) in evaluation mode, from a clone on meta or, failing that, real tensors.

    Raises:
        CannotTrace: the forward fails on real tensors too; its own error is chained.
    """
    shadow = evaluating(clone(model, empty_like_on_meta))
    inputs = map_tensors(lambda t: t.detach().to(META) if t.device.type != "meta" else t, example)
    try:
        return _record(shadow, inputs, real=list(tensors(example)))
    except Exception as first:
        if any(t.device.type == "meta" for *_, t in named_tensors(model)):
            raise CannotTrace(f"the forward failed on meta tensors, and the model holds no others: {first}") from first
    real = clone(model, lambda t: t.detach().clone()).eval()
    try:
        return _record(real, map_tensors(lambda t: t.detach().clone(), example))
    except Exception as e:
        raise CannotTrace(f"the model's forward raised {type(e).__name__} on the example inputs: {e}") from e


def record_training(model: nn.Module, example: Example) -> Recording | None:
    """The operator calls in training mode on twice the batch, on meta; None where that fails or chance decides.

    Twice: batch norm in training wants more than one value.
    """
    try:
        doubled = with_batch(example, 2 * batch_of(example))
        inputs = map_tensors(lambda t: t.detach().to(META), doubled)
        shadows = [clone(model, empty_like_on_meta).train() for _ in range(2)]
        rec, again = (_record(shadow, inputs, real=list(tensors(doubled))) for shadow in shadows)
    except Exception:
        return None
    return rec if [op.func for op in rec.ops] == [op.func for op in again.ops] else None


def _record(model: nn.Module, example: Example, *, real: list[Tensor] | None = None) -> Recording:
    """`real`: the inputs with their values, for a model and an example on meta."""
    rec = Recording.opened(model, example)
    args, kwargs = as_args(example)
    instead = None if real is None else Answers(rec, real)
    with watching(model, rec.see, meta=real is not None, instead=instead, same=rec.same):
        out = model(*args, **kwargs)
    rec.outputs = [rec.value(t, "op") for t in tensors(out)]
    for v in rec.inputs + rec.outputs:  # what the caller holds outlives the forward
        v.died = None
    rec._seen.clear()
    return rec
