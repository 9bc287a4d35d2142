"""Measures activation memory: every storage that an operator allocates, until it is released."""

from __future__ import annotations

import weakref
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed
from sartor.measure.program import on_cpu
from sartor.structure.example import call, tensors
from sartor.torch_internals import TorchDispatchMode, storage_address


def measured_memory(model: nn.Module, example: Any, *, inputs: bool = True) -> int:
    """Largest number of bytes of activations alive at once in one eager forward without gradients.

    Args:
        model: borrowed, in eval mode.
        example: example inputs, at the batch size to measure.
        inputs: count the inputs too; the caller holds them during the whole forward.

    Returns:
        Bytes of distinct storages: views and in-place operators add nothing. Parameters, buffers and the workspace
        inside an operator are not counted.

    >>> measured_memory(nn.Sequential(nn.ReLU(), nn.ReLU()), torch.ones(4, 5))
    240
    """
    model, example = on_cpu(model, example)
    held = {_key(t) for t in chain(model.parameters(), model.buffers(), tensors(example))}
    own = {_key(t): t.untyped_storage().nbytes() for t in tensors(example)}
    with borrowed(model), torch.no_grad(), _Alive(held) as alive:
        call(model, example)
    return alive.peak + (sum(own.values()) if inputs else 0)


def _key(t: Tensor) -> int:
    return storage_address(t)


class _Alive(TorchDispatchMode):
    """Adds the storages that operators return, and subtracts each when its last tensor is released."""

    def __init__(self, ignore: set[int]):
        super().__init__()
        self.ignore = ignore
        self.sizes: dict[int, int] = {}
        self.watch: dict[int, weakref.ref[Any]] = {}
        self.now = 0
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for t in tensors(out):
            self._meet(t)
        self.peak = max(self.peak, self.now)
        return out

    def _meet(self, t: Tensor) -> None:
        key = _key(t)
        if key in self.ignore:
            return
        storage = t.untyped_storage()
        size = storage.nbytes()
        if key not in self.sizes:
            self.watch[key] = weakref.ref(storage, partial(self._gone, key))
        self.now += size - self.sizes.get(key, 0)
        self.sizes[key] = size

    def _gone(self, key: int, _: object) -> None:
        self.now -= self.sizes.pop(key, 0)
        self.watch.pop(key, None)
