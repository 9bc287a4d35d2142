"""Context managers that restore state: of a model, its memory format, of the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from sartor.errors import BadInput
from sartor.seed import own_states, set_own_states


@contextmanager
def borrowed(model: nn.Module, *, training: bool = False) -> Iterator[list[RemovableHandle]]:
    """Set the mode of every module; restore modes and remove hooks at the end, also if the body raises.

    In evaluation mode, attributes that a forward sets on its module (a cache, a replaced buffer) are restored too.
    Values that it changes inside a tensor are not: see `unchanged`.

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


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Whatever forwards inside the block change in a model is put back at the end, also if the body raises.

    That is: values of buffers and of tensors that modules hold as attributes, states of random generators they hold,
    gradients, and whether tensors require them. Modes, hooks and other attributes are the matter of `borrowed`.
    Parameters are compared, not copied.

    Raises:
        BadInput: a parameter has other values than before; names it.
    """
    parameters = {name: (p, p.requires_grad, p.grad, _sums(p)) for name, p in model.named_parameters()}
    tables = [vars(m) for m in model.modules()]
    held = [t for table in tables for t in _plain_tensors(table)]
    saved = [(t, t.detach().clone()) for t in {id(t): t for t in (*model.buffers(), *held)}.values() if not is_lazy(t)]
    generators = own_states(tables)
    try:
        yield
    finally:
        with torch.no_grad():
            for t, value in saved:
                if not _equal(t, value):
                    t.copy_(value)
        set_own_states(tables, generators)
        for p, required, gradient, _ in parameters.values():
            p.grad = gradient
            if p.requires_grad != required:
                p.requires_grad_(required)
    changed = next((name for name, (p, _, _, sums) in parameters.items() if _sums(p) != sums), None)
    if changed is not None:
        raise BadInput(
            f"model: its forward changes the values of its parameter {changed!r} in evaluation mode, so it is another "
            "network after every call. Let it change buffers only, or only when self.training"
        )


def _plain_tensors(table: dict[str, Any]) -> list[torch.Tensor]:
    """Tensors among the attributes of a module that are neither parameters nor buffers."""
    return [t for t in table.values() if isinstance(t, torch.Tensor) and t.is_leaf and t.layout is torch.strided]


def _sums(p: torch.Tensor) -> tuple[str, str]:
    """Two sums over the values of a parameter: another one has others, but for coincidence."""
    if is_lazy(p) or p.device.type == "meta" or p.layout is not torch.strided or p.is_quantized:
        return "", ""
    with torch.no_grad():
        values = (torch.view_as_real(p.detach()) if p.is_complex() else p.detach()).double()
        return str(values.sum().item()), str((values * values).sum().item())


def _equal(t: torch.Tensor, value: torch.Tensor) -> bool:
    """Whether there is nothing to put back; a NaN equals a NaN."""
    return t.device.type == "meta" or bool(((t == value) | ((t != t) & (value != value))).all())


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
