"""MLPs and plain tensor algebra: views, einsum, matrix products, masks, own parameters and buffers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.testing.zoo.case import Head, case, conv_bn, images, rows


@case("mlp", rows(12))
def mlp() -> nn.Module:
    """Linear layers with dropout and batch norm."""
    return nn.Sequential(
        *[nn.Linear(12, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.3)],
        *[nn.Linear(20, 16, bias=False), nn.ReLU(), nn.AlphaDropout(0.1), nn.Linear(16, 5)],
    )


@case("mlp-mixer", images(), exact=False, source="Tolstikhin et al. 2021, arXiv:2105.01601")
class MLPMixer(nn.Module):
    """Patches, then MLPs over positions and over channels with transposes and layer norms between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 10, 2, 2)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(10), nn.LayerNorm(10), nn.LayerNorm(10)
        self.tokens = nn.Sequential(nn.Linear(16, 12), nn.GELU(), nn.Linear(12, 16))
        self.channels = nn.Sequential(nn.Linear(10, 20), nn.GELU(), nn.Linear(20, 10))
        self.out = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.out(self.norm3(x).mean(1))


@case("view-numbers", images())
class ViewNumbers(nn.Module):
    """Views into [groups, width] with numbers held in attributes; a gate shared by all groups."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.groups, self.width = conv_bn(3, 12), 3, 4
        self.gate, self.head = nn.Linear(4, 4), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        h, w = x.shape[-2:]
        y = x.view(-1, self.groups, self.width, h * w)
        y = y * torch.sigmoid(self.gate(y.mean(3)))[..., None]
        return self.head(y.view(-1, self.groups * self.width, h, w))


@case("view-literals", images(), marks=("closure",))
class ViewLiterals(nn.Module):
    """view(-1, 128) with the number written into the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv_bn(3, 8, stride=2), nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).view(-1, 128))


@case("einsum", rows(6, 12))
class Einsum(nn.Module):
    """Linear maps over features and over rows as einsums with own parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(torch.empty(16, 12)), nn.Parameter(torch.empty(16, 9))
        self.rows, self.out = nn.Parameter(torch.empty(4, 6)), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(torch.einsum("nrf,of->nro", x, self.up))
        x = torch.einsum("nro,oc,qr->nqc", x, self.down, self.rows)
        return self.out(F.relu(x).sum(1))


@case("matmul", rows(12))
class Matmul(nn.Module):
    """Matrix products with own parameters: @, torch.mm, addmm, baddbmm and a product with a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.empty(12, 16)), nn.Parameter(torch.empty(16, 10))
        self.c, self.c_bias = nn.Parameter(torch.empty(10, 8)), nn.Parameter(torch.zeros(8))
        self.d, self.v = nn.Parameter(torch.empty(1, 8, 6)), nn.Parameter(torch.zeros(10))
        self.out = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(x @ self.a)
        x = F.relu(torch.mm(x, self.b))
        y = F.relu(torch.addmm(self.c_bias, x, self.c))
        y = torch.baddbmm(torch.zeros(1), y.unsqueeze(1), self.d.expand(y.shape[0], -1, -1)).squeeze(1)
        return self.out(y) + (x @ self.v).unsqueeze(-1)


@case("bilinear", lambda: (rows(7)(), rows(9, seed=2)()))
class Bilinear(nn.Module):
    """nn.Bilinear of two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(7, 8), nn.Linear(9, 10)
        self.join, self.out = nn.Bilinear(8, 10, 6), nn.Linear(6, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(F.relu(self.join(F.relu(self.a(x)), F.relu(self.b(y)))))


@case("gram", images(), source="Lin et al. 2015, arXiv:1504.07889")
class Gram(nn.Module):
    """Bilinear pooling: the same channels on both sides of a product, flattened into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = conv_bn(3, 6), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x).flatten(2)
        return self.fc((x @ x.transpose(1, 2) / x.shape[-1]).flatten(1))


@case("squeeze-unsqueeze", rows(12))
class SqueezeUnsqueeze(nn.Module):
    """Features become channels of a one-pixel map and of a sequence of length one, and features again."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(12, 10), nn.Conv2d(10, 8, 1), nn.Conv1d(8, 9, 1)
        self.out = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))[:, :, None, None]
        x = F.relu(self.b(x)).squeeze(3)
        x = F.relu(self.c(x)).squeeze(-1)
        return self.out(x.unsqueeze(0).squeeze(0))


@case("where-mask", images())
class WhereMask(nn.Module):
    """torch.where and masked_fill, the mask made from positions and from values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv_bn(3, 8, act=False), conv_bn(3, 8, act=False), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        y = torch.where(a > b, a, 0.5 * b)
        y = y.masked_fill(x.sum(1, keepdim=True) > 1.0, 0.0)
        return self.head(torch.maximum(y, a * 0.1))


@case("channel-bias", images())
class ChannelBias(nn.Module):
    """Own parameters [1, C, 1, 1] and [C, 1, 1] added and multiplied by broadcasting."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3, bias=False), Head(8)
        self.scale = nn.Parameter(torch.ones(8, 1, 1))
        self.shift = nn.Parameter(torch.zeros(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.conv(x) * self.scale + self.shift))


@case("positions", images())
class Positions(nn.Module):
    """Own parameters over channels and positions: [1, C, H, W] added, a class row [1, 1, C] concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 2, 2)
        self.position, self.first = nn.Parameter(torch.empty(1, 8, 4, 4)), nn.Parameter(torch.empty(1, 1, 8))
        self.mix, self.out = nn.Linear(8, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = (self.conv(x) + self.position).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1), x], 1)
        return self.out(F.relu(self.mix(x)).sum(1))


@case("functional-conv", images())
class FunctionalConv(nn.Module):
    """F.conv2d, F.batch_norm and F.linear with parameters and buffers of the module's own."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.kernel_bias = nn.Parameter(torch.empty(8, 3, 3, 3)), nn.Parameter(torch.zeros(8))
        self.gamma, self.beta_bias = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.register_buffer("running_mean", torch.zeros(8))
        self.register_buffer("running_var", torch.ones(8))
        self.matrix = nn.Parameter(torch.empty(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.kernel, self.kernel_bias, stride=2, padding=1)
        x = F.batch_norm(x, self.running_mean, self.running_var, self.gamma, self.beta_bias)
        return F.linear(F.relu(x).mean((2, 3)), self.matrix)


@case("buffer-scale", images())
class BufferScale(nn.Module):
    """A buffer scales channels, another one normalises the input; one buffer is not persistent."""

    scale: Tensor
    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.1, -0.2, 0.3]).view(3, 1, 1))
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8).view(1, 8, 1, 1), persistent=False)
        self.conv, self.head = conv_bn(3, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.conv(x - self.mean) * self.scale)


@case("index-channels", images())
class IndexChannels(nn.Module):
    """Channels reordered by an index buffer, and mirrored by flip: both address units by index."""

    order: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("order", torch.tensor([3, 0, 2, 1, 5, 4, 7, 6]))
        self.conv, self.mid, self.out, self.head = conv_bn(3, 8), conv_bn(8, 10), conv_bn(10, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mid(self.conv(x)[:, self.order])
        return self.head(self.out(x.flip(1)))


@case("softmax-channels", images(), exact=False)
class SoftmaxChannels(nn.Module):
    """Softmax over channels in the middle: a channel of zeros still has a share."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.head = conv_bn(3, 8), conv_bn(8, 9), Head(9)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.out(4 * self.conv(x).softmax(1)))


@case("unfold", images())
class Unfold(nn.Module):
    """im2col by F.unfold, then a matrix product instead of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.matrix, self.head = conv_bn(3, 6), nn.Parameter(torch.empty(8, 24)), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.matrix @ F.unfold(self.stem(x), 2, stride=2)))
