"""A borrowed model is given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle


@contextmanager
def borrowed(model: nn.Module, *, training: bool = False) -> Iterator[list[RemovableHandle]]:
    """Switch the mode of every module and collect hook handles; undo both even when the body raises."""
    modes = [(m, m.training) for m in model.modules()]
    hooks: list[RemovableHandle] = []
    model.train(training)
    try:
        yield hooks
    finally:
        for hook in hooks:
            hook.remove()
        for module, mode in modes:
            module.training = mode


def device_of(model: nn.Module) -> torch.device:
    """Where the model lies: the device of its first parameter or buffer; the CPU for a model without any."""
    for t in (*model.parameters(), *model.buffers()):
        return t.device
    return torch.device("cpu")
