"""Depthwise and grouped convolution, shuffles, squeeze-excite."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.testing.zoo.case import Head, case, conv_bn, images


class SqueezeExcite(nn.Module):
    """Channel weights from the global mean, through a narrow layer of 1x1 convolutions."""

    def __init__(self, width: int, narrow: int):
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, narrow, 1), nn.Conv2d(narrow, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


@case("squeeze-excite", images(), source="Hu et al. 2017, arXiv:1709.01507")
class SENet(nn.Module):
    """Squeeze-excite inside a residual block, the gate made by linear layers and a view."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv = conv_bn(3, 12), conv_bn(12, 12, act=False)
        self.fc1, self.fc2 = nn.Linear(12, 4), nn.Linear(4, 12)
        self.head = Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.conv(x)
        n, c = y.shape[:2]
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(y.mean((2, 3)))))).view(n, c, 1, 1)
        return self.head(F.relu(x + y * gate))


class InvertedResidual(nn.Module):
    """Expand, depthwise, optional squeeze-excite, project."""

    def __init__(self, cin: int, cout: int, factor: int, kernel: int, excite: bool = False):
        super().__init__()
        mid = cin * factor
        self.body = nn.Sequential(
            conv_bn(cin, mid, 1),
            conv_bn(mid, mid, kernel, groups=mid),
            SqueezeExcite(mid, 4) if excite else nn.Identity(),
            conv_bn(mid, cout, 1, act=False),
        )
        self.residual = cin == cout

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


@case("mobilenet-v2", images(), source="Sandler et al. 2018, arXiv:1801.04381")
def mobilenet_v2() -> nn.Module:
    """Inverted residuals."""
    blocks = [InvertedResidual(8, 8, 2, 3), InvertedResidual(8, 10, 2, 3)]
    return nn.Sequential(conv_bn(3, 8), *blocks, conv_bn(10, 16, 1), Head(16))


@case("efficientnet", images(), source="Tan and Le 2019, arXiv:1905.11946")
def efficientnet() -> nn.Module:
    """Inverted residuals with squeeze-excite."""
    blocks = [InvertedResidual(8, 8, 2, 3, excite=True), InvertedResidual(8, 8, 3, 5, excite=True)]
    return nn.Sequential(conv_bn(3, 8), *blocks, Head(8))


@case("depthwise-multiplier", images(), source="Howard et al. 2017, arXiv:1704.04861")
def depthwise_multiplier() -> nn.Module:
    """Depthwise separable convolution, and a depthwise one that makes two maps of each channel."""
    return nn.Sequential(
        *[conv_bn(3, 6), conv_bn(6, 6, groups=6), conv_bn(6, 8, 1)],
        *[nn.Conv2d(8, 16, 3, padding=1, groups=8), nn.BatchNorm2d(16), nn.ReLU(), Head(16)],
    )


@case("grouped", images())
def grouped() -> nn.Module:
    """Grouped convolutions with different numbers of groups, one behind the other."""
    return nn.Sequential(conv_bn(3, 12), conv_bn(12, 24, groups=3), conv_bn(24, 16, groups=4), Head(16))


@case("regnet", images(), source="Radosavovic et al. 2020, arXiv:2003.13678")
class RegNet(nn.Module):
    """Grouped bottleneck with squeeze-excite inside and a residual stream outside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.a, self.b, self.se = conv_bn(8, 12, 1), conv_bn(12, 12, groups=3), SqueezeExcite(12, 4)
        self.c, self.head = conv_bn(12, 8, 1, act=False), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + self.c(self.se(self.b(self.a(x))))))


class Shuffle(nn.Module):
    """Channels [groups, width] -> [width, groups] by view, transpose, view; the width from the input's shape."""

    def __init__(self, groups: int):
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


@case("shufflenet-v1", images(), source="Zhang et al. 2017, arXiv:1707.01083")
class ShuffleNetV1(nn.Module):
    """Grouped 1x1 convolution, shuffle, depthwise, grouped 1x1, residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 12)
        self.body = nn.Sequential(
            *[
                conv_bn(12, 27, 1, groups=3),
                Shuffle(3),
                conv_bn(27, 27, groups=27),
                conv_bn(27, 12, 1, groups=3, act=False),
            ]
        )
        self.head = Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(x + self.body(x)))


@case("shufflenet-v2", images(), source="Ma et al. 2018, arXiv:1807.11164")
class ShuffleNetV2(nn.Module):
    """Chunk in two, work on one half, concatenate, shuffle, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.branches = nn.ModuleList(
            [nn.Sequential(conv_bn(8, 8, 1), conv_bn(8, 8, groups=8, act=False), conv_bn(8, 8, 1)) for _ in range(2)]
        )
        self.shuffle, self.head = Shuffle(2), Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            kept, worked = x.chunk(2, dim=1)
            x = self.shuffle(torch.cat((kept, branch(worked)), 1))
        return self.head(x)


@case("channel-shuffle-module", images())
def channel_shuffle_module() -> nn.Module:
    """nn.ChannelShuffle between grouped convolutions."""
    return nn.Sequential(
        conv_bn(3, 12), conv_bn(12, 12, groups=3), nn.ChannelShuffle(3), conv_bn(12, 9, groups=3), Head(9)
    )


@case("ghostnet", images(), source="Han et al. 2019, arXiv:1911.11907")
class GhostNet(nn.Module):
    """Primary maps and cheap depthwise copies of them, concatenated and sliced to width."""

    class Ghost(nn.Module):
        """Primary convolution, depthwise copy, concatenation."""

        def __init__(self, cin: int, cout: int):
            super().__init__()
            self.primary = conv_bn(cin, cout // 2, 1)
            self.cheap = conv_bn(cout // 2, cout // 2, groups=cout // 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.primary(x)
            return torch.cat([x, self.cheap(x)], 1)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv_bn(3, 8), self.Ghost(8, 16), self.Ghost(16, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.b(self.a(x)))


@case("cbam", images(), exact=False, source="Woo et al. 2018, arXiv:1807.06521")
class CBAM(nn.Module):
    """Spatial attention from the mean and the maximum over channels: cutting a channel changes the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attend = conv_bn(3, 8), nn.Conv2d(2, 1, 3, padding=1)
        self.out, self.head = conv_bn(8, 9), Head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        summary = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(self.out(x * torch.sigmoid(self.attend(summary))))


@case("attention-pool", images())
class AttentionPool(nn.Module):
    """Softmax over positions, then a weighted sum of positions by a batched matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.score, self.fc = conv_bn(3, 8), nn.Conv2d(8, 2, 1), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        weights = self.score(x).flatten(2).softmax(-1)  # [n, 2, hw]
        return self.fc(torch.bmm(weights, x.flatten(2).transpose(1, 2)).flatten(1))
