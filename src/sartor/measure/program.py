"""A model captured by torch.export with a free batch size, where the model allows it."""

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
    """Follow the forward in eval mode; the model is only borrowed.

    Args:
        model: on the CPU (see `on_cpu`).
        example: example inputs; every tensor whose dimension 0 is the batch gets a free dimension 0.
        fixed: why the batch size of the example is to be the only one; else it is free where that can be followed.

    Raises:
        SartorError: torch.export cannot follow the forward even at the fixed batch size of the example.
        Exception: what the model's own forward raises on the example, unchanged.

    Source: torch.export, https://docs.pytorch.org/docs/stable/export.html
    """
    batch = batch_of(example)
    with borrowed(model), torch.no_grad():
        call(model, example)
        with quiet():
            # a batch of one would be taken for a constant
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
    return torch.export.export(model, args, kwargs, dynamic_shapes=shapes if free_batch else None, strict=False)


def on_cpu(model: nn.Module, example: Any) -> tuple[nn.Module, Any]:
    """The model and its inputs on the CPU: the same objects where they are there already, else copies."""
    states: list[Tensor] = list(chain(model.parameters(), model.buffers()))
    if any(t.device.type != "cpu" for t in states):
        model = copy.deepcopy(model).cpu()
    return model, to_device(example, "cpu")
