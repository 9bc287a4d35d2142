"""A model captured by torch.export with a free batch size, where the model allows it; its size in bytes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram, ShapesCollection

from sartor.borrow import borrowed
from sartor.errors import SartorError
from sartor.measure.silence_output import first_line, quiet
from sartor.structure.example import as_args, batch_of, call, tensors, to_device, with_batch


@dataclass(frozen=True)
class Program:
    """An exported program, and whether its batch size is free."""

    exported: ExportedProgram
    dynamic: bool
    batch: int  # the batch size it was captured at: the only one when not dynamic
    reason: str = ""  # why the batch size is not free


def capture(model: nn.Module, example: Any, *, fixed: str = "") -> Program:
    """Capture the forward in eval mode; the model is only borrowed.

    Args:
        model: on the CPU (see `on_cpu`).
        example: example inputs; every tensor whose dimension 0 is the batch gets a free dimension 0.
        fixed: why only the batch size of the example is to work; "": the batch size is free where torch.export can
            capture that.

    Raises:
        SartorError: torch.export cannot follow the forward even at the fixed batch size of the example.
        Exception: what the model's own forward raises on the example, unchanged.

    Source: torch.export, https://docs.pytorch.org/docs/stable/export.html
    """
    batch = batch_of(example)
    with borrowed(model), torch.no_grad():
        call(model, example)
    with quiet():
        # torch.export treats a dimension of length 1 as a constant
        free = with_batch(example, max(2, batch))
        reason = fixed
        if not fixed:
            try:
                return Program(_export(model, free, free_batch=True), True, max(2, batch))
            except Exception as e:
                reason = first_line(e)
        try:
            return Program(_export(model, example, free_batch=False), False, batch, reason)
        except Exception as e:
            raise SartorError(
                f"export: torch.export cannot follow the forward of {type(model).__name__}: {first_line(e)}"
            ) from e


def _export(model: nn.Module, example: Any, *, free_batch: bool) -> ExportedProgram:
    args, kwargs = as_args(example)
    shapes = ShapesCollection()
    if free_batch:
        batch = batch_of(example)
        for t in {id(t): t for t in tensors(example)}.values():
            if t.dim() and t.shape[0] == batch:
                shapes[t] = {0: Dim.DYNAMIC}
    with borrowed(model), torch.no_grad():  # for each try anew: a state that a forward keeps is exported as it was
        return torch.export.export(model, args, kwargs, dynamic_shapes=shapes if free_batch else None, strict=False)


def state_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, tied ones once."""
    return sum({t.data_ptr(): t.nbytes for t in chain(model.parameters(), model.buffers())}.values())


def on_cpu(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    """The model and its inputs on the CPU: the same objects if they are on the CPU already, else copies."""
    states: list[Tensor] = list(chain(model.parameters(), model.buffers()))
    if any(t.device.type != "cpu" for t in states):
        model = copy.deepcopy(model).cpu()
    return model, to_device(example, "cpu")
