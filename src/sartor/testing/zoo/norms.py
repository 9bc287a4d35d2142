"""Norms, layer scales, reparametrised weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sartor.testing.zoo.case import Head, case, conv_bn, images, rows


@case("group-norm", images(), exact=False, source="Wu and He 2018, arXiv:1803.08494")
def group_norm() -> nn.Module:
    """Group norm over 3 groups, and over a single one: both mix channels."""
    return nn.Sequential(
        *[nn.Conv2d(3, 12, 3, padding=1), nn.GroupNorm(3, 12), nn.ReLU()],
        *[nn.Conv2d(12, 8, 3, padding=1), nn.GroupNorm(1, 8), nn.ReLU(), Head(8)],
    )


@case("group-norm-per-channel", images())
def group_norm_per_channel() -> nn.Module:
    """Group norm with as many groups as channels: nothing is mixed."""
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(8, 8), nn.ReLU(), Head(8))


@case("instance-norm", images(), source="Ulyanov et al. 2016, arXiv:1607.08022")
def instance_norm() -> nn.Module:
    """Instance norm, with affine and running statistics and without."""
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 3, padding=1), nn.InstanceNorm2d(8, affine=True, track_running_stats=True), nn.ReLU()],
        *[nn.Conv2d(8, 10, 3, padding=1), nn.InstanceNorm2d(10), nn.ReLU(), nn.Conv2d(10, 9, 1), nn.ReLU()],
        *[nn.InstanceNorm2d(9, affine=True), nn.LeakyReLU(), Head(9)],
    )


@case("batch-norm-plain", images())
def batch_norm_plain() -> nn.Module:
    """Batch norm without affine parameters."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, affine=False), nn.ReLU(), Head(8))


@case("layer-norm-mlp", rows(12), exact=False, source="Ba et al. 2016, arXiv:1607.06450")
class LayerNormMLP(nn.Module):
    """A residual MLP with layer norm before every block: the stream is mixed, the hidden layers are not."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 16)
        self.norms = nn.ModuleList([nn.LayerNorm(16) for _ in range(2)])
        self.ups = nn.ModuleList([nn.Linear(16, 24) for _ in range(2)])
        self.downs = nn.ModuleList([nn.Linear(24, 16) for _ in range(2)])
        self.final, self.out = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for norm, up, down in zip(self.norms, self.ups, self.downs):
            x = x + down(F.gelu(up(norm(x))))
        return self.out(self.final(x))


@case("rms-norm-mlp", rows(12), exact=False, source="Zhang and Sennrich 2019, arXiv:1910.07467")
class RMSNormMLP(nn.Module):
    """Root mean square norm, once as a module and once with elementary operators, around a gated MLP."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(12, 16), nn.RMSNorm(16)
        self.gate, self.up, self.down = nn.Linear(16, 20), nn.Linear(16, 20), nn.Linear(20, 16)
        self.scale, self.out = nn.Parameter(torch.ones(16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        x = x + self.down(F.silu(self.gate(y)) * self.up(y))
        return self.out(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale)


@case("convnext", images(), exact=False, source="Liu et al. 2022, arXiv:2201.03545")
class ConvNeXt(nn.Module):
    """Depthwise 7x7, permute to channels last, layer norm, linear layers, layer scale, permute back, residual."""

    class Block(nn.Module):
        """One residual block."""

        def __init__(self, width: int):
            super().__init__()
            self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
            self.norm = nn.LayerNorm(width, eps=1e-6)
            self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
            self.gamma = nn.Parameter(1e-6 * torch.ones(width))

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
            y = self.gamma * self.down(F.gelu(self.up(y)))
            return x + y.permute(0, 3, 1, 2)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 2, 2), nn.Sequential(self.Block(8), self.Block(8))
        self.norm, self.out = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.blocks(self.stem(x)).mean([-2, -1])))


@case("channels-first-norm", images(), exact=False)
class ChannelsFirstNorm(nn.Module):
    """Layer norm over channels, written with elementary operators on [n, c, h, w]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, padding=1), Head(8)
        self.scale, self.shift = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        mean = x.mean(1, keepdim=True)
        var = (x - mean).pow(2).mean(1, keepdim=True)
        x = (x - mean) / torch.sqrt(var + 1e-6)
        return self.head(F.relu(self.scale[:, None, None] * x + self.shift[:, None, None]))


@case("unit-length", images(), exact=False)
class UnitLength(nn.Module):
    """Features normalised to length one before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv_bn(3, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.normalize(self.conv(x).mean((2, 3)), dim=1))


@case("response-norm", images(), exact=False, source="Krizhevsky et al. 2012")
def response_norm() -> nn.Module:
    """Local response norm: neighbouring channels, by their index, influence each other."""
    return nn.Sequential(conv_bn(3, 8), nn.LocalResponseNorm(3, alpha=0.5), conv_bn(8, 9), Head(9))


@case("weight-norm", rows(12), exact=False, source="Salimans and Kingma 2016, arXiv:1602.07868")
def weight_norm() -> nn.Module:
    """Weight norm as a parametrisation on a linear layer: a row of zeros would divide zero by zero."""
    return nn.Sequential(
        parametrizations.weight_norm(nn.Linear(12, 16)), nn.ReLU(), parametrizations.weight_norm(nn.Linear(16, 5))
    )


@case("weight-norm-conv", images(4, 16), exact=False, source="Bai et al. 2018, arXiv:1803.01271")
def weight_norm_conv() -> nn.Module:
    """Weight norm on one-dimensional convolutions, as temporal convolution nets use it."""
    convs = [parametrizations.weight_norm(nn.Conv1d(a, b, 3, padding=1)) for a, b in ((4, 8), (8, 10))]
    return nn.Sequential(convs[0], nn.ReLU(), convs[1], nn.ReLU(), Head(10))


@case("weight-standardised", images(), exact=False, source="Qiao et al. 2019, arXiv:1903.10520")
class WeightStandardised(nn.Module):
    """Every filter has mean zero and variance one over its inputs, computed in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.weight = conv_bn(3, 8), nn.Parameter(torch.empty(10, 8, 3, 3))
        self.gain, self.head = nn.Parameter(torch.ones(10)), Head(10)

    def forward(self, x: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        weight = (self.weight - mean) * torch.rsqrt(var + 1e-5) * self.gain.view(-1, 1, 1, 1)
        return self.head(F.relu(F.conv2d(self.stem(x), weight, padding=1)))
