"""Concatenation, splitting, slicing, gating, shuffling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.testing.zoo.case import Head, case, conv_bn, images

DENSE = "Huang et al. 2016, arXiv:1608.06993"


class DenseLayer(nn.Module):
    """Batch norm, ReLU, convolution; the input is put before the output."""

    def __init__(self, cin: int, growth: int):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(cin), nn.Conv2d(cin, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(F.relu(self.norm(x)))], 1)


@case("densenet", images(), source=DENSE)
def densenet() -> nn.Module:
    """Dense block, transition, dense block."""
    return nn.Sequential(
        *[nn.Conv2d(3, 8, 3, padding=1, bias=False), DenseLayer(8, 4), DenseLayer(12, 4)],
        *[nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 10, 1, bias=False), nn.AvgPool2d(2)],
        *[DenseLayer(10, 6), nn.BatchNorm2d(16), nn.ReLU(), Head(16)],
    )


@case("dense-growth", images(), source=DENSE)
class DenseGrowth(nn.Module):
    """Dense block that keeps a growing list of maps and concatenates all of them before every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 6)
        self.layers = nn.ModuleList([conv_bn(6 + 4 * i, 4) for i in range(4)])
        self.head = Head(22)

    def forward(self, x: Tensor) -> Tensor:
        maps = [self.stem(x)]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)))
        return self.head(torch.cat(maps, 1))


@case("inception", images(), source="Szegedy et al. 2014, arXiv:1409.4842")
class Inception(nn.Module):
    """Four parallel branches concatenated, twice."""

    class Block(nn.Module):
        """1x1, 3x3, 5x5 and pooled branches."""

        def __init__(self, cin: int):
            super().__init__()
            self.one = conv_bn(cin, 4, 1)
            self.three = nn.Sequential(conv_bn(cin, 5, 1), conv_bn(5, 6, 3))
            self.five = nn.Sequential(conv_bn(cin, 3, 1), conv_bn(3, 5, 5))
            self.pool = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(cin, 3, 1))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.one(x), self.three(x), self.five(x), self.pool(x)], dim=-3)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.head = conv_bn(3, 8), self.Block(8), self.Block(18), Head(18)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(self.a(self.stem(x))))


@case("cat-then-add", images())
class CatThenAdd(nn.Module):
    """Two concatenations cut at different places meet in one addition, so that the pieces refine each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv_bn(3, 6), conv_bn(3, 10)
        self.c, self.d, self.e = conv_bn(3, 4), conv_bn(3, 5), conv_bn(3, 7)
        self.head = Head(16)

    def forward(self, x: Tensor) -> Tensor:
        left = torch.cat([self.a(x), self.b(x)], 1)
        right = torch.cat([self.c(x), self.d(x), self.e(x)], 1)
        return self.head(left + right)


@case("cat-with-input", images())
class CatWithInput(nn.Module):
    """The input itself is one of the concatenated pieces: that part cannot be cut, the rest can."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = conv_bn(3, 8), conv_bn(11, 9), Head(9)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.b(torch.cat([x, self.a(x)], 1)))


@case("csp", images(), source="Wang et al. 2019, arXiv:1911.11929")
class CrossStagePartial(nn.Module):
    """Half of the channels goes through residual blocks, the other half around them; all pieces are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.blocks = nn.ModuleList([conv_bn(8, 8) for _ in range(2)])
        self.merge, self.head = conv_bn(32, 12, 1), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        pieces = list(self.stem(x).chunk(2, 1))
        for block in self.blocks:
            pieces.append(pieces[-1] + block(pieces[-1]))
        return self.head(self.merge(torch.cat(pieces, 1)))


@case("split-sizes", images(), source="Chen et al. 2023, arXiv:2303.03667")
class PartialConv(nn.Module):
    """Split into unequal sizes held in attributes; only the first part is convolved."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 16)
        self.touched, self.untouched = 4, 12
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.mix, self.head = conv_bn(16, 10, 1), Head(10)

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(self.stem(x), [self.touched, self.untouched], dim=1)
        return self.head(self.mix(torch.cat((self.conv(a), b), 1)))


@case("chunk-gate", images())
class ChunkGate(nn.Module):
    """One half of the channels gates the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.head = conv_bn(3, 16, act=False), conv_bn(8, 9), Head(9)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.conv(x).chunk(2, dim=1)
        return self.head(self.out(value * torch.sigmoid(gate)))


@case("glu", images(), source="Dauphin et al. 2016, arXiv:1612.08083")
def glu() -> nn.Module:
    """Gated linear units over channels, then over features."""
    return nn.Sequential(
        *[nn.Conv2d(3, 16, 3, padding=1), nn.GLU(dim=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        *[nn.Linear(8, 20), nn.GLU(), nn.Linear(10, 5)],
    )


@case("slices", images())
class Slices(nn.Module):
    """Channels addressed by slices from the front and from the back, bounds held in an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.k = conv_bn(3, 14), 6
        self.first, self.last, self.head = conv_bn(6, 8), conv_bn(8, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.first(x[:, : self.k]) + self.last(x[:, self.k :]))


@case("negative-slices", images(), marks=("closure",))
class NegativeSlices(nn.Module):
    """Slices counted from the back, written as literals in the forward."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b, self.head = conv_bn(3, 12), conv_bn(8, 6), conv_bn(4, 6), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.a(x[:, :-4]) + self.b(x[:, -4:]))


@case("strided-slices", images())
class StridedSlices(nn.Module):
    """Even and odd channels pass through different layers and are concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.even, self.odd, self.head = conv_bn(3, 12), conv_bn(6, 5), conv_bn(6, 7), Head(12)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(torch.cat([self.even(x[:, 0::2]), self.odd(x[:, 1::2])], 1))


@case("select-channel", images())
class SelectChannel(nn.Module):
    """One channel, selected by its index, is a map that weights all other channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.out, self.head = conv_bn(3, 8), conv_bn(8, 9), Head(9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head(self.out(x * torch.sigmoid(x[:, 2]).unsqueeze(1)))


@case("focus", images())
class Focus(nn.Module):
    """Space to depth by strided slices of the positions, after a first convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = conv_bn(3, 6), conv_bn(24, 10), Head(10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        corners = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
        return self.head(self.conv(torch.cat(corners, 1)))


@case("repeat", images())
class Repeat(nn.Module):
    """Channels repeated as a block and one by one, and a broadcast gate expanded by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = conv_bn(3, 6), conv_bn(12, 8), conv_bn(12, 8)
        self.gate, self.head = nn.Linear(6, 8), Head(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))
        y = self.a(x.repeat(1, 2, 1, 1)) + self.b(x.repeat_interleave(2, dim=1))
        return self.head(y * gate[:, :, None, None].expand_as(y))


@case("channel-boosting", images(), source="Khan et al. 2018, arXiv:1804.08528")
class ChannelBoosting(nn.Module):
    """Channels of an auxiliary learner, a small autoencoder's code, are put beside the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.auxiliary = conv_bn(3, 8), nn.Conv2d(8, 5, 1)
        self.main, self.head = nn.Sequential(conv_bn(8, 10), conv_bn(10, 6)), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        boosted = torch.cat([x, self.auxiliary(self.encoder(x)).sigmoid()], 1)
        return self.head(self.main(boosted))
