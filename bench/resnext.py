"""A small ResNeXt for 8 x 8 digits (Xie et al. 2017, arXiv:1611.05431)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """A bottleneck whose middle convolution has groups, with a residual connection."""

    def __init__(self, width: int, inner: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False), nn.BatchNorm2d(inner), nn.ReLU(),
            nn.Conv2d(inner, width, 1, bias=False), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] -> the same shape."""
        return torch.relu(x + self.body(x))


def resnext(classes: int = 10) -> nn.Sequential:
    """[n, 1, 8, 8] -> [n, classes]."""
    blocks = [Block(32, 64, 4) for _ in range(4)]
    stem = [nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, classes))
