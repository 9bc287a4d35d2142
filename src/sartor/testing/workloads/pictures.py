"""Generated pictures, volumes and clips: smooth shapes with edges, so that there is something to restore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sartor.types import Data


def pictures(n: int, *size: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Smooth fields with a sharp-edged shape on each, in [0, 1], [n, channels, *size]; size: two or three numbers."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, channels, *(4 for _ in size), generator=generator)
    mode = "bilinear" if len(size) == 2 else "trilinear"
    smooth = F.interpolate(coarse, size, mode=mode, align_corners=True)
    grids = torch.meshgrid(*(torch.linspace(-1, 1, s) for s in size), indexing="ij")
    centre = torch.rand(n, len(size), generator=generator) - 0.5
    radius = 0.3 + 0.4 * torch.rand(n, generator=generator)
    distance = sum((g[None] - centre[:, d].reshape(n, *(1 for _ in size))).abs() for d, g in enumerate(grids))
    inside = (distance < radius.reshape(n, *(1 for _ in size)))[:, None]
    return torch.where(inside, 1 - smooth, smooth)


def batched(inputs: Any, targets: Any, size: int) -> list[tuple[Any, Any]]:
    """Pairs of inputs and targets, `size` samples each; both are tensors or tuples of tensors."""

    def part(value: Any, i: int) -> Any:
        return tuple(t[i : i + size] for t in value) if isinstance(value, tuple) else value[i : i + size]

    n = len(targets[0] if isinstance(targets, tuple) else targets)
    return [(part(inputs, i), part(targets, i)) for i in range(0, n, size)]


def two_parts(make: Callable[[int, int], tuple[Any, Any]], sizes: tuple[int, int], batch: int, seed: int) -> Data:
    """Training and validation batches of make(number of samples, seed) -> (inputs, targets)."""
    train, val = (batched(*make(n, seed + i), batch) for i, n in enumerate(sizes))
    return Data(train=train, val=val)


def psnr(output: Tensor, targets: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 1]; the error is a mean over the batch."""
    return float(-10 * (output - targets).square().mean().clamp(min=1e-10).log10())


__all__ = ["batched", "pictures", "psnr", "two_parts"]
