"""Run a model once and write down its operator calls.

The forward runs under a dispatch mode on *meta* tensors, on a clone of the model that shares nothing: no arithmetic is
done, no weight is read, the user's model is not touched. Models whose control flow looks at values run on real copies.
Inference mode keeps composite operators (linear, attention, LSTM) whole; one without a rule is taken apart instead.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from sartor.errors import CannotTrace
from sartor.structure.calls import Op, Value
from sartor.structure.example import Example, as_args, map_tensors, tensors
from sartor.structure.rules import lookup

META = torch.device("meta")
_SILENT = {"aten::detach", "aten::_assert_tensor_metadata"}  # come and go with what holds a tensor alive


def named_tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    """(owner, key, full name, tensor) of every parameter and buffer, a tied one under each of its names."""
    for path, module in model.named_modules():
        for store in (module._parameters, module._buffers):
            for key, t in store.items():
                if t is not None:
                    yield module, key, f"{path}.{key}" if path else key, t


def clone(model: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of the model whose parameters and buffers are `convert(tensor)`; tied ones stay tied, nothing is shared.

    Raises:
        CannotTrace: the model holds something Python cannot copy.
    """
    memo: dict[int, Any] = {}
    for *_, t in named_tensors(model):
        if id(t) not in memo:
            new = convert(t)
            if isinstance(t, nn.Parameter) and not isinstance(new, nn.Parameter):
                new = nn.Parameter(new, requires_grad=t.requires_grad)
            memo[id(t)] = new
    try:
        return copy.deepcopy(model, memo)
    except (RuntimeError, TypeError) as e:
        raise CannotTrace(
            f"the model cannot be copied ({type(e).__name__}: {e}); "
            "a tensor that is neither a parameter nor a buffer, kept with its gradient history, is the usual cause"
        ) from e


def empty_like_on_meta(t: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """A meta tensor of the same kind, of its own or another shape."""
    if shape is None or tuple(shape) == tuple(t.shape):
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=META)
    return torch.empty(shape, dtype=t.dtype, device=META)


class Watch(TorchDispatchMode):
    """Calls `see(func, args, kwargs, out, path)` for every operator a rule speaks of; takes the others apart."""

    def __init__(self, see: Callable[..., None], *, meta: bool, instead: Callable[..., Any] | None = None):
        super().__init__()
        self.see, self.meta, self.instead, self.path = see, meta, instead, ""
        self._moved: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        if lookup(func) is None:
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        if self.meta:
            args, kwargs = self._to_meta(args), self._to_meta(kwargs)
            if _takes_device(func):
                kwargs = {**kwargs, "device": META}
            if func._schema.name in ("aten::to", "aten::_to_copy") and any(isinstance(a, torch.device) for a in args):
                args = tuple(META if isinstance(a, torch.device) else a for a in args)
        out = NotImplemented if self.instead is None else self.instead(func, args, kwargs)
        if out is NotImplemented:
            out = func(*args, **kwargs)
        if func._schema.name not in _SILENT:
            self.see(func, args, kwargs, out, self.path)
        return out

    def _to_meta(self, x: Any) -> Any:
        if isinstance(x, Tensor):
            if x.device.type == "meta":
                return x
            if id(x) not in self._moved:
                self._moved[id(x)] = (x, x.to(META))
            return self._moved[id(x)][1]
        if isinstance(x, list | tuple) and any(isinstance(v, Tensor | list | tuple) for v in x):
            return type(x)(self._to_meta(v) for v in x)
        return {k: self._to_meta(v) for k, v in x.items()} if isinstance(x, dict) else x


def _takes_device(func: OpOverload) -> bool:
    return any(a.name == "device" and a.kwarg_only for a in func._schema.arguments)


@contextmanager
def watching(
    model: nn.Module, see: Callable[..., None], *, meta: bool, instead: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Watch the operators of everything run inside, with the path of the module that calls them.

    `instead(func, args, kwargs)` may give the result of an operator itself, or NotImplemented.
    """
    watch = Watch(see, meta=meta, instead=instead)
    stack: list[str] = []
    handles = []

    def enter(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any) -> None:
            stack.append(watch.path)
            watch.path = name

        return hook

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        if stack:
            watch.path = stack.pop()

    for name, module in model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), prepend=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.inference_mode(), watch:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for h in handles:
            h.remove()


class Recording:
    """The operator calls of one forward, and the values between them."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.tensors: dict[str, Value] = {}  # parameters and buffers, by every name they have
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.example: Any = None
        self._seen: dict[int, tuple[Any, Value]] = {}

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
        key = id(t)
        if key in self._seen:
            return self._seen[key][1]
        v = Value(tuple(t.shape), t.dtype, t.untyped_storage()._cdata, name, origin)

        def gone(_: Any) -> None:
            v.died = len(self.ops)
            self._seen.pop(key, None)

        self._seen[key] = (weakref.ref(t, gone), v)
        return v

    def see(self, func: OpOverload, args: Any, kwargs: Any, out: Any, path: str) -> None:
        """Write one call down."""
        a, k = map_tensors(self.value, args), map_tensors(self.value, kwargs)
        self.ops.append(Op(len(self.ops), func, path, a, k, None))
        self.ops[-1].out = map_tensors(lambda t: self.value(t, "op"), out)


def record(model: nn.Module, example: Example) -> Recording:
    """The operator calls of model(example) in evaluation mode, from a clone on meta or, failing that, real tensors.

    Raises:
        CannotTrace: the forward fails on real tensors too; its own error is chained.
    """
    shadow = clone(model, empty_like_on_meta).eval()
    inputs = map_tensors(lambda t: t.detach().to(META) if t.device.type != "meta" else t, example)
    try:
        return _record(shadow, inputs, meta=True)
    except Exception as first:
        if any(t.device.type == "meta" for *_, t in named_tensors(model)):
            raise CannotTrace(f"the forward failed on meta tensors, and the model holds no others: {first}") from first
    real = clone(model, lambda t: t.detach().clone()).eval()
    try:
        return _record(real, map_tensors(lambda t: t.detach().clone(), example), meta=False)
    except Exception as e:
        raise CannotTrace(f"the model's forward raised {type(e).__name__} on the example inputs: {e}") from e


def _record(model: nn.Module, example: Example, *, meta: bool) -> Recording:
    rec = Recording.opened(model, example)
    args, kwargs = as_args(example)
    with watching(model, rec.see, meta=meta):
        out = model(*args, **kwargs)
    rec.outputs = [rec.value(t, "op") for t in tensors(out)]
    for v in rec.inputs + rec.outputs:  # what the caller holds outlives the forward
        v.died = None
    rec._seen.clear()
    return rec
