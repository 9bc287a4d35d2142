"""How far a network is from the original, without labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed
from sartor.structure.example import Example, call, first_tensor


def outputs(model: nn.Module, inputs: Iterable[Example]) -> list[Tensor]:
    """The first output of every batch, in evaluation mode."""
    with borrowed(model), torch.no_grad():
        return [first_tensor(call(model, x)).detach() for x in inputs]


def output_gap(model: nn.Module, inputs: Sequence[Example], wanted: Sequence[Tensor]) -> float:
    """Squared distance of the outputs from those wanted, relative to their squared size; 0 is equal, 1 is like zeros.

    Args:
        model: borrowed.
        inputs: batches.
        wanted: the original's outputs on them, see `outputs`.
    """
    far = near = 0.0
    for got, want in zip(outputs(model, inputs), wanted, strict=True):
        far += float((want.double() - got.double()).square().sum())
        near += float(want.double().square().sum())
    return far / near if near else far
