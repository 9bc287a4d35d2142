"""Stacks without branches: convolutions of every kind, pools, activations, heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.testing.zoo.case import Head, case, conv_bn, images


@case("plain-conv", images())
class PlainConv(nn.Module):
    """Three convolutions with bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 12, 3, stride=2, padding=1)
        self.c = nn.Conv2d(12, 10, 3)
        self.head = Head(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


@case("conv-bn-relu", images())
def conv_bn_relu() -> nn.Module:
    """Convolution, batch norm, ReLU, twice."""
    return nn.Sequential(conv_bn(3, 8), conv_bn(8, 12, stride=2), Head(12))


@case("sequential", images(3, 12, 12), source="Simonyan and Zisserman 2014, arXiv:1409.1556")
def sequential() -> nn.Module:
    """nn.Sequential only: convolutions, max pools, flatten, linear layers, dropout."""
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)],
        *[nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)],
        *[nn.Flatten(), nn.Linear(12 * 9, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 5)],
    )


@case("flatten-head", images())
class FlattenHead(nn.Module):
    """Flatten channels and positions into one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 8, stride=2)
        self.fc = nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.conv(x), 1))


@case("pre-activation", images())
class PreActivation(nn.Module):
    """Batch norm before the convolution, and one directly on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.n0, self.c0 = nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.n1, self.c1 = nn.BatchNorm2d(8), nn.Conv2d(8, 10, 1)
        self.head = Head(10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.c1(F.relu(self.n1(self.c0(self.n0(x))))))


@case("dilated", images(3, 12, 12), source="Yu and Koltun 2015, arXiv:1511.07122")
def dilated() -> nn.Module:
    """Dilated and asymmetric kernels."""
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 3, padding=2, dilation=2), nn.ReLU()],
        *[nn.Conv2d(8, 10, (1, 3), padding=(0, 1)), nn.ReLU(), nn.Conv2d(10, 12, (3, 1)), nn.ReLU()],
        Head(12),
    )


@case("padding-modes", images())
class PaddingModes(nn.Module):
    """Circular, reflected, replicated and zero padding of positions."""

    def __init__(self) -> None:
        super().__init__()
        self.circular = nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular")
        self.reflect, self.b = nn.ReflectionPad2d(1), nn.Conv2d(8, 10, 3)
        self.replicate, self.c = nn.ReplicationPad2d(1), nn.Conv2d(10, 8, 3)
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.circular(x))
        x = F.relu(self.b(self.reflect(x)))
        x = F.relu(self.c(self.replicate(x)))
        return self.head(self.same(F.pad(x, (1, 0, 0, 1))))


@case("conv1d", images(4, 32))
def conv1d() -> nn.Module:
    """A one-dimensional convolution net with batch norm and pools."""
    return nn.Sequential(
        *[nn.Conv1d(4, 8, 7, stride=2, padding=3), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2)],
        *[nn.Conv1d(8, 12, 3, padding=1), nn.BatchNorm1d(12), nn.ReLU(), nn.AvgPool1d(2)],
        *[nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 5)],
    )


@case("conv3d", images(2, 4, 8, 8))
def conv3d() -> nn.Module:
    """A three-dimensional convolution net."""
    return nn.Sequential(
        *[nn.Conv3d(2, 8, 3, padding=1, bias=False), nn.BatchNorm3d(8), nn.ReLU(), nn.MaxPool3d(2)],
        *[nn.Conv3d(8, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(10, 5)],
    )


@case("pools", images(3, 16, 16))
class Pools(nn.Module):
    """Max, average, adaptive, ceil-mode and power-average pools."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 8), conv_bn(8, 10), conv_bn(10, 8)
        self.max = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.avg = nn.AvgPool2d(2, count_include_pad=False)
        self.adaptive = nn.AdaptiveMaxPool2d((3, 2))
        self.lp = nn.LPPool2d(2, 2)
        self.fc = nn.Linear(8 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.max(self.a(x))
        x = self.c(self.avg(self.b(x)))
        y = torch.cat([F.adaptive_avg_pool2d(x, (2, 1)), F.adaptive_max_pool2d(x, (2, 1))], 3)
        return self.fc(y.flatten(1)) + self.adaptive(self.lp(x)).sum((1, 2, 3)).unsqueeze(1)


@case("mean-max-head", images(), source="Howard and Gugger 2020, arXiv:2002.04688")
class MeanMaxHead(nn.Module):
    """Global mean and global maximum concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv_bn(3, 8)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.fc(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))


@case("activations", images())
class Activations(nn.Module):
    """One activation of each kind, between 1x1 convolutions."""

    def __init__(self) -> None:
        super().__init__()
        kinds = [nn.Hardswish, nn.SiLU, nn.GELU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Mish, nn.Tanh, nn.Sigmoid]
        self.acts = nn.ModuleList(
            [kind() for kind in [*kinds, nn.ReLU6, nn.Hardsigmoid, nn.SELU, nn.CELU, nn.Softsign]]
        )
        self.convs = nn.ModuleList([nn.Conv2d(3 if i == 0 else 8, 8, 1) for i in range(len(self.acts))])
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        for conv, act in zip(self.convs, self.acts):
            x = 2 * act(conv(x))
        return self.head(x.clamp(-3, 3) + x.abs().sqrt())


@case("prelu", images(), source="He et al. 2015, arXiv:1502.01852")
def prelu() -> nn.Module:
    """PReLU with a slope per channel, and one shared slope."""
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 3, padding=1), nn.PReLU(8), nn.Conv2d(8, 10, 3), nn.PReLU(), Head(10)],
    )


@case("inplace", images())
class InPlace(nn.Module):
    """In-place activations, additions and multiplications."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(3, 8, act=False), conv_bn(8, 8, act=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.a(x))
        y = self.b(x)
        y += x
        y.mul_(0.5).clamp_(max=4.0)
        return self.head(F.relu_(y))


@case("lenet", images(1, 12, 12), source="LeCun et al. 1998")
class LeNet(nn.Module):
    """Two convolutions and three linear layers; view(-1, n) with n held in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 2)
        self.flat = 8 * 2 * 2
        self.fc1, self.fc2, self.fc3 = nn.Linear(self.flat, 20), nn.Linear(20, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.tanh(self.conv1(x)), 2)
        x = F.max_pool2d(torch.tanh(self.conv2(x)), 2)
        x = x.view(-1, self.flat)
        return self.fc3(torch.tanh(self.fc2(torch.tanh(self.fc1(x)))))
