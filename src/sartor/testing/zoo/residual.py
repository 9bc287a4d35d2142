"""Residual streams: additions of every kind."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.testing.zoo.case import Head, case, conv_bn, images

HE = "He et al. 2015, arXiv:1512.03385"


class Basic(nn.Module):
    """Two 3x3 convolutions around a shortcut given from outside."""

    def __init__(self, cin: int, cout: int, stride: int, shortcut: nn.Module):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False), nn.BatchNorm2d(cout)
        self.conv2, self.bn2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False), nn.BatchNorm2d(cout)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.shortcut(x))


@case("resnet", images(), source=HE)
def resnet() -> nn.Module:
    """Basic blocks, one with a 1x1 projection in its shortcut."""
    return nn.Sequential(
        conv_bn(3, 8),
        Basic(8, 8, 1, nn.Identity()),
        Basic(8, 12, 2, conv_bn(8, 12, 1, stride=2, act=False)),
        Basic(12, 12, 1, nn.Identity()),
        Head(12),
    )


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with an optional projection."""

    def __init__(self, cin: int, mid: int, cout: int, groups: int = 1):
        super().__init__()
        self.body = nn.Sequential(
            conv_bn(cin, mid, 1), conv_bn(mid, mid, 3, groups=groups), conv_bn(mid, cout, 1, act=False)
        )
        self.project = conv_bn(cin, cout, 1, act=False) if cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        skip = x if self.project is None else self.project(x)
        return F.relu(self.body(x) + skip)


@case("bottleneck", images(), source=HE)
def bottleneck() -> nn.Module:
    """Bottleneck blocks with a 1x1 projection."""
    return nn.Sequential(conv_bn(3, 8), Bottleneck(8, 6, 16), Bottleneck(16, 6, 16), Head(16))


@case("resnext", images(), source="Xie et al. 2016, arXiv:1611.05431")
def resnext() -> nn.Module:
    """Bottleneck blocks with grouped 3x3 convolutions."""
    return nn.Sequential(conv_bn(3, 8), Bottleneck(8, 12, 16, groups=3), Bottleneck(16, 12, 16, groups=3), Head(16))


class PadShortcut(nn.Module):
    """Option A: every second position, zero channels before and after; both counts are attributes."""

    def __init__(self, before: int, behind: int):
        super().__init__()
        self.before, self.behind = before, behind

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.behind))


class Closure(nn.Module):
    """Any function as a module: the variables that it captured cannot be changed."""

    def __init__(self, f: Callable[[Tensor], Tensor]):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)


def _option_a(shortcut: Callable[[int, int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        conv_bn(3, 8),
        Basic(8, 8, 1, nn.Identity()),
        Basic(8, 16, 2, shortcut(4, 4)),
        Basic(16, 32, 2, shortcut(8, 8)),
        Basic(32, 32, 1, nn.Identity()),
        Head(32),
    )


@case("cifar-resnet-pad", images(), source=HE)
def cifar_resnet_pad() -> nn.Module:
    """CIFAR ResNet, option-A shortcuts, the numbers of zero channels held in attributes."""
    return _option_a(PadShortcut)


@case("cifar-resnet-closure", images(), marks=("closure",), source=HE)
def cifar_resnet_closure() -> nn.Module:
    """CIFAR ResNet, option-A shortcuts as lambdas that captured the numbers of zero channels."""
    return _option_a(lambda before, behind: Closure(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, before, behind))))


@case("cifar-resnet-cat", images())
class CatZeros(nn.Module):
    """Option A written as a concatenation with fresh zeros of the input's own width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = conv_bn(3, 8), conv_bn(8, 16, stride=2, act=False), Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skip = F.avg_pool2d(x, 1, 2)
        skip = torch.cat([skip, skip.mul(0)], dim=1)
        return self.head(F.relu(self.body(x) + skip))


@case("repvgg", images(), source="Ding et al. 2021, arXiv:2101.03697")
class RepVGG(nn.Module):
    """Three parallel branches added: 3x3, 1x1 and batch norm alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.three, self.one, self.none = conv_bn(8, 8, act=False), conv_bn(8, 8, 1, act=False), nn.BatchNorm2d(8)
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(F.relu(self.three(x) + self.one(x) + self.none(x)))


@case("long-skips", images())
class LongSkips(nn.Module):
    """Skips that cross one another, with learned scalar weights."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.blocks = nn.ModuleList([conv_bn(8, 8, act=False) for _ in range(3)])
        self.weight = nn.Parameter(torch.ones(3))
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        kept = [self.stem(x)]
        for i, block in enumerate(self.blocks):
            kept.append(F.relu(block(kept[-1]) + self.weight[i] * kept[max(0, i - 1)]))
        return self.head(kept[-1] - kept[1])


@case("stack-sum", images())
class StackSum(nn.Module):
    """Branches stacked along a new dimension and summed away."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_bn(3, 8, k) for k in (1, 3, 5)])
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.stack([branch(x) for branch in self.branches], dim=1).sum(1))


@case("selective-kernel", images(), source="Li et al. 2019, arXiv:1903.06586")
class SelectiveKernel(nn.Module):
    """Softmax over branches weights the kernel sizes separately for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.three, self.five = conv_bn(8, 8, 3), conv_bn(8, 8, 5)
        self.squeeze = nn.Linear(8, 6)
        self.choose = nn.ModuleList([nn.Linear(6, 8), nn.Linear(6, 8)])
        self.head = Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        maps = torch.stack([self.three(x), self.five(x)], 1)
        z = F.relu(self.squeeze(maps.sum(1).mean((2, 3))))
        share = torch.stack([f(z) for f in self.choose], 1).softmax(1)
        return self.head((maps * share[..., None, None]).sum(1))


@case("residual-mlp", images(12), exact=True)
class ResidualMLP(nn.Module):
    """Linear residual blocks with one-dimensional batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12 * 64, 16)
        self.up, self.norm, self.down = nn.Linear(16, 24), nn.BatchNorm1d(24), nn.Linear(24, 16)
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1))
        x = x + self.down(F.relu(self.norm(self.up(x))))
        return self.out(x)
