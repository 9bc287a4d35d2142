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


def output_gap(model: nn.Module, inputs: Sequence[Example], targets: Sequence[Tensor]) -> float:
    """Squared distance of the outputs from the original's, relative to their squared size; 0 is equal, 1 is like zeros.

    Args:
        model: borrowed.
        inputs: batches.
        targets: the original's outputs on them, see `outputs`.
    """
    far = near = 0.0
    for output, target in zip(outputs(model, inputs), targets, strict=True):
        far += float((target.double() - output.double()).square().sum())
        near += float(target.double().square().sum())
    return far / near if near else far
