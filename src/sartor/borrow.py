"""What is borrowed is given back as it was: a model, the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def borrowed(model: nn.Module, *, training: bool = False) -> Iterator[list[RemovableHandle]]:
    """Switch the mode of every module and collect hook handles; undo both even when the body raises.

    In evaluation mode what a forward leaves in its module (a cache in an attribute, a buffer put in another's place) is
    undone too. What is changed inside a tensor stays.
    """
    modes = [(m, m.training) for m in model.modules()]
    undo = [] if training else [_undo(m) for m in model.modules()]
    hooks: list[RemovableHandle] = []
    model.train(training)
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()
        for back in undo:
            back()
        for module, mode in modes:
            module.training = mode


def _undo(module: nn.Module) -> Callable[[], None]:
    """Gives a module back the attributes it has now, and its dicts and lists what they hold."""
    before = dict(vars(module))
    inside = {k: v.copy() for k, v in before.items() if isinstance(v, dict | list)}

    def back() -> None:
        now = vars(module)
        for k in [k for k in now if k not in before]:
            del now[k]
        for k, v in before.items():
            now[k] = v
            if k in inside and not _same(v, inside[k]):
                v.clear()
                v.update(inside[k]) if isinstance(v, dict) else v.extend(inside[k])

    return back


def _same(a: Any, b: Any) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, dict):
        return all(k == m and v is w for (k, v), (m, w) in zip(a.items(), b.items()))
    return all(v is w for v, w in zip(a, b))


@contextmanager
def uncollected() -> Iterator[None]:
    """Without garbage collection, which walks all objects of the process at moments of its own."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def device_of(model: nn.Module) -> torch.device:
    """Where the model lies: the device of its first parameter or buffer; the CPU for a model without any."""
    for t in (*model.parameters(), *model.buffers()):
        return t.device
    return torch.device("cpu")
