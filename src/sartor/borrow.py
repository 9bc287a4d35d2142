"""Context managers that restore state: of a model, its memory format, of the garbage collector."""

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
    """Set the mode of every module; restore modes and remove hooks at the end, also if the body raises.

    In evaluation mode, attributes that a forward sets on its module (a cache, a replaced buffer) are restored too.
    Values that it changes inside a tensor are not.

    Args:
        model: borrowed.
        training: the mode inside the block.

    Yields:
        A list; handles of hooks that the body appends are removed at the end.
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
    """A function that restores the current attributes of a module, and the contents of its dicts and lists."""
    before = dict(vars(module))
    inside = {k: v.copy() for k, v in before.items() if isinstance(v, dict | list)}

    def back() -> None:
        now = vars(module)
        for k in [k for k in now if k not in before]:
            del now[k]
        for k, v in before.items():
            now[k] = v
            if k in inside and (v or inside[k]) and not _same(v, inside[k]):
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
def in_channels_last(model: nn.Module) -> Iterator[None]:
    """Inside the block, weights are in channels-last memory format; afterwards as before."""
    contiguous = [p for p in model.parameters() if p.dim() == 4 and p.is_contiguous()]
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for p in contiguous:
            p.data = p.data.contiguous()
            p.grad = None


@contextmanager
def uncollected() -> Iterator[None]:
    """Garbage collection is off inside the block, because it would interrupt a measurement at arbitrary moments."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter or buffer; the CPU if it has none."""
    for t in (*model.parameters(), *model.buffers()):
        return t.device
    return torch.device("cpu")
