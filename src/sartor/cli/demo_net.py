"""The network of `sartor demo`: a small residual CNN for 8x8 images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    """Two convolutions with batch norm, and the input added back."""

    def __init__(self, inside: int, outside: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != outside:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))

    def forward(self, x: Tensor) -> Tensor:
        """[n, inside, h, w] -> [n, outside, h / stride, w / stride]."""
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class DemoNet(nn.Module):
    """Two stages of residual blocks, pooled into a linear classifier.

    Args:
        width: channels of the first stage; the second has twice as many.
        depth: blocks of a stage.
        classes: number of classes.
    """

    def __init__(self, width: int = 64, depth: int = 2, classes: int = 10):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.stage1 = nn.Sequential(*(Block(width, width) for _ in range(depth)))
        second = (Block(2 * width if i else width, 2 * width, 1 if i else 2) for i in range(depth))
        self.stage2 = nn.Sequential(*second)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 1, 8, 8] -> logits [n, classes]."""
        x = self.stage2(self.stage1(F.relu(self.bn(self.stem(x)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


def net(width: int = 64, depth: int = 2) -> DemoNet:
    """The factory: `sartor.load("sartor-demo", sartor.cli.demo_net.net)`."""
    return DemoNet(width, depth)
