"""Networks and data whose probes have known answers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sartor.analysis import Reading
from sartor.analysis.subject import ProbeSubject
from sartor.structure import trace

Batch = tuple[Tensor, Tensor]


def batches(x: Tensor, y: Tensor, size: int = 50) -> list[Batch]:
    return list(zip(x.split(size), y.split(size)))


def subject(model: nn.Module, data: list[Batch], seed: int = 0) -> ProbeSubject:
    return ProbeSubject(model, trace(model, data[0][0][:1]), tuple(data), seed)


def by_name(readings: list[Reading]) -> dict[str, float]:
    """Values of the whole network by quantity."""
    return {r.quantity: r.value for r in readings if not r.layer and r.value is not None}


def linear_classifier(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear layer with the weight [classes, inputs] given."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    layer.weight.data = weight.clone()
    if bias is not None:
        layer.bias.data = bias.clone()
    return layer


def two_clouds(n: int = 400, width: int = 6, seed: int = 0) -> Batch:
    """Two Gaussian classes of unit variance around plus and minus one vector of length 1."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    centre = torch.ones(width) / width**0.5
    x = torch.randn(n, width, generator=generator) + (2 * y[:, None] - 1) * centre
    return x, y
