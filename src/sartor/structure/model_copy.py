"""Copies of a model that share nothing with it, on meta or with values, and the names of its tensors.

`copy.deepcopy` takes longer than a forward on meta tensors, so modules are copied here without it.
"""

from __future__ import annotations

import copy
import copyreg
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sartor.errors import CannotTrace
from sartor.structure.rules.shapes import META
from sartor.torch_internals import children_table, own_buffers, own_parameters

ATOMS = {  # types of immutable values: a copy may hold the same object
    *(type(None), bool, int, float, complex, str, bytes, type, range, slice, torch.dtype, torch.device, torch.Size),
    *(torch.memory_format, torch.layout, types.FunctionType, types.BuiltinFunctionType),
}
_TABLES = frozenset(nn.Module().__dict__)  # hooks, parameters and other tables that every module has of its own
_CONTAINERS = {dict, OrderedDict, set}
_OWN = ("train", "eval", "__setattr__")


def named_tensors(model: nn.Module) -> Iterator[tuple[nn.Module, str, str, Tensor]]:
    """(owner, key, full name, tensor) of every parameter and buffer; a tied tensor appears under each of its names."""
    for module, path in modules_of(model).items():
        for store in (own_parameters(module), own_buffers(module)):
            if store:
                front = f"{path}." if path else ""
                for key, t in store.items():
                    if t is not None:
                        yield module, key, front + key, t


def modules_of(model: nn.Module) -> dict[nn.Module, str]:
    """Module -> path, each module once, in the order and with the names of `named_modules`."""
    found: dict[nn.Module, str] = {}

    def walk(module: nn.Module, path: str) -> None:
        found[module] = path
        children = children_table(module)
        if children:
            front = f"{path}." if path else ""
            for name, child in children.items():
                if child is not None and child not in found:
                    walk(child, front + name)

    walk(model, "")
    return found


def modules_by_path(model: nn.Module) -> dict[str, nn.Module]:
    """`dict(model.named_modules())`, faster."""
    return {path: module for module, path in modules_of(model).items()}


def every_path(model: nn.Module) -> dict[str, nn.Module]:
    """`dict(model.named_modules(remove_duplicate=False))`, faster."""
    found: dict[str, nn.Module] = {}

    def walk(module: nn.Module, path: str) -> None:
        found[path] = module
        children = children_table(module)
        if children:
            front = f"{path}." if path else ""
            for name, child in children.items():
                if child is not None:
                    walk(child, front + name)

    walk(model, "")
    return found


def clone(model: nn.Module, convert: Callable[[Tensor], Tensor]) -> nn.Module:
    """A copy of the model whose parameters and buffers are `convert(tensor)`; tied ones stay tied, nothing is shared.

    Raises:
        CannotTrace: the model holds an object that Python cannot copy.
    """
    memo: dict[int, Any] = {}
    for owner, key, _, t in named_tensors(model):
        if id(t) not in memo:
            new = convert(t)
            if key in own_parameters(owner) and not isinstance(new, nn.Parameter):
                new = nn.Parameter(new, requires_grad=t.requires_grad)
            memo[id(t)] = new
    try:
        return _copied(model, memo)
    except (RuntimeError, TypeError) as e:
        raise CannotTrace(
            f"the model cannot be copied ({type(e).__name__}: {e}); "
            "a tensor that is neither a parameter nor a buffer, kept with its gradient history, is the usual cause"
        ) from e


def _copied(x: Any, memo: dict[int, Any]) -> Any:
    """copy.deepcopy(x, memo), with a faster path for modules and plain containers."""
    kind: Any = type(x)
    if kind in ATOMS or (kind is tuple and ATOMS.issuperset(map(type, x))):
        return x
    new: Any = memo.get(id(x))
    if new is not None:
        return new
    if kind is dict or kind is OrderedDict or (kind is set and not x):
        new = memo[id(x)] = kind()
        for k, v in x.items() if x else ():
            key = k if type(k) is str else _copied(k, memo)
            known = memo.get(id(v))
            new[key] = _copied(v, memo) if known is None else known
    elif kind is Tensor and not x.is_leaf:  # the old weight norm leaves one on its module; `deepcopy` refuses it
        new = memo[id(x)] = x.detach().clone()
    elif kind is list:
        new = memo[id(x)] = []
        new.extend([_copied(v, memo) for v in x])
    elif isinstance(x, nn.Module) and _plain(kind):
        new = memo[id(x)] = kind.__new__(kind)
        state: dict[str, Any] = x.__dict__.copy()
        for k, v in [(k, v) for k, v in state.items() if type(v) not in ATOMS]:
            held = type(v)
            if k in _TABLES and not v and held in _CONTAINERS:
                state[k] = held()
            elif held is not tuple or not ATOMS.issuperset(map(type, v)):
                state[k] = _copied(v, memo)
        state.pop("_compiled_call_impl", None)
        if kind.__setstate__ is nn.Module.__setstate__:
            new.__dict__.update(state)
        else:
            new.__setstate__(state)
    else:
        new = copy.deepcopy(x, memo)
    return new


@cache
def _plain(kind: Any) -> bool:
    """Whether a module of this class is copied by copying its `__dict__`: it defines no way of its own."""
    same = ("__getstate__", "__reduce_ex__", "__reduce__", "__getnewargs__", "__getnewargs_ex__")
    return (
        all(getattr(kind, name, None) is getattr(nn.Module, name, None) for name in same)
        and kind.__new__ is object.__new__
        and not hasattr(kind, "__deepcopy__")
        and not copyreg._slotnames(kind)  # type: ignore[attr-defined]
        and kind not in copyreg.dispatch_table
    )


def empty_like_on_meta(t: Tensor, shape: tuple[int, ...] | None = None) -> Tensor:
    """A meta tensor with the dtype of t: with its shape and strides, or contiguous with another shape."""
    if shape is None or tuple(shape) == tuple(t.shape):
        return torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=META)
    return torch.empty(shape, dtype=t.dtype, device=META)


def evaluating(model: nn.Module) -> nn.Module:
    """model.eval(), faster where no class overrides `train`, `eval` or `__setattr__`."""
    modules = modules_of(model)
    if any(getattr(kind, name) is not getattr(nn.Module, name) for kind in set(map(type, modules)) for name in _OWN):
        return model.eval()
    for module in modules:
        module.__dict__["training"] = False
    return model
