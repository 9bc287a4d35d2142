"""Compares the outputs of two runs of one model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from sartor.structure.example import map_tensors, tensors


def relative_error(expected: Any, actual: Any) -> float:
    """Largest difference over all output tensors, each divided by the largest magnitude of the expected tensor.

    Args:
        expected: output of the reference, any nesting of tensors.
        actual: output to judge: the same nesting, or a flat list of tensors or NumPy arrays in the same order.

    Returns:
        0 if equal; inf if the number or the shapes of the tensors differ, or if one is finite where the other is not.
        For integer and boolean tensors: the share of entries that differ.

    >>> relative_error(torch.tensor([1.0, -4.0]), [torch.tensor([1.0, -3.0])])
    0.25
    """
    left, right = list(tensors(expected)), [_tensor(t) for t in _flat(actual)]
    if len(left) != len(right) or any(a.shape != b.shape for a, b in zip(left, right)):
        return float("inf")
    return max((_error(a.detach().cpu(), b.detach().cpu()) for a, b in zip(left, right)), default=0.0)


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list | tuple) and any(isinstance(v, np.ndarray | np.generic) for v in value):
        return list(value)
    return list(tensors(value))


def _tensor(value: Any) -> Tensor:
    return (
        value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value)).reshape(np.shape(value))
    )


def _error(a: Tensor, b: Tensor) -> float:
    if a.numel() == 0:
        return 0.0
    if not a.is_floating_point():
        return (a != b).double().mean().item()
    a, b = a.double(), b.double()
    fine = torch.isfinite(a)
    if not torch.equal(fine, torch.isfinite(b)):
        return float("inf")
    if not fine.all():
        same = (a == b) | (a.isnan() & b.isnan()) | fine
        if not same.all():
            return float("inf")
        a, b = a[fine], b[fine]
        if a.numel() == 0:
            return 0.0
    scale = a.abs().max().item()
    return (a - b).abs().max().item() / (scale or 1.0)


def varied(example: Any, seed: int = 0) -> Any:
    """The example with every floating-point entry multiplied by 1 + 0.1 * noise, so that repeated samples differ.

    Zeros stay zero, so masks stay masks. Integer tensors are not changed.
    """
    generator = torch.Generator().manual_seed(seed)

    def vary(t: Tensor) -> Tensor:
        if not t.is_floating_point():
            return t
        noise = torch.randn(t.shape, generator=generator).to(t)
        return t * (1 + 0.1 * noise)

    return map_tensors(vary, example)
