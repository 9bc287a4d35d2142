"""Networks that increase the resolution: U-Net, pyramids, transposed convolution, pixel shuffles."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.testing.zoo.case import Head, case, conv_bn, images


@case("unet", images(), source="Ronneberger et al. 2015, arXiv:1505.04597")
class UNet(nn.Module):
    """Two levels down and up, transposed convolutions, skips concatenated; a map for every class."""

    def __init__(self) -> None:
        super().__init__()
        self.d1, self.d2, self.low = conv_bn(3, 6), conv_bn(6, 8), conv_bn(8, 12)
        self.up2, self.u2 = nn.ConvTranspose2d(12, 8, 2, 2), conv_bn(16, 8)
        self.up1, self.u1 = nn.ConvTranspose2d(8, 6, 2, 2), conv_bn(12, 6)
        self.out = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.d1(x)
        b = self.d2(F.max_pool2d(a, 2))
        c = self.low(F.max_pool2d(b, 2))
        b = self.u2(torch.cat([self.up2(c), b], 1))
        a = self.u1(torch.cat([self.up1(b), a], 1))
        return self.out(a)


@case("conv-transpose-grouped", images())
def conv_transpose_grouped() -> nn.Module:
    """Grouped and depthwise transposed convolutions with output padding."""
    return nn.Sequential(
        *[conv_bn(3, 8), nn.ConvTranspose2d(8, 12, 3, 2, 1, output_padding=1, groups=2), nn.ReLU()],
        *[nn.ConvTranspose2d(12, 12, 2, 2, groups=12, bias=False), nn.BatchNorm2d(12), nn.ReLU(), Head(12)],
    )


@case("conv-transpose-1d-3d", lambda: {"wave": images(3, 8)(), "cube": images(2, 2, 4, 4)()})
class ConvTranspose1d3d(nn.Module):
    """Transposed convolutions over one and three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.ta = nn.Conv1d(3, 8, 3, padding=1), nn.ConvTranspose1d(8, 6, 4, 2, 1)
        self.b, self.tb = nn.Conv3d(2, 8, 1), nn.ConvTranspose3d(8, 5, 2, 2)
        self.fc = nn.Linear(11, 5)

    def forward(self, wave: Tensor, cube: Tensor) -> Tensor:
        a, b = F.relu(self.ta(F.relu(self.a(wave)))), F.relu(self.tb(F.relu(self.b(cube))))
        return self.fc(torch.cat([a.mean(2), b.mean((2, 3, 4))], 1))


@case("fpn", images(3, 16, 16), source="Lin et al. 2016, arXiv:1612.03144")
class FPN(nn.Module):
    """Feature pyramid: lateral 1x1 convolutions, nearest upsampling, additions, one head for all levels; a list."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = conv_bn(3, 8), conv_bn(8, 10, stride=2), conv_bn(10, 12, stride=2)
        self.laterals = nn.ModuleList([nn.Conv2d(c, 8, 1) for c in (8, 10, 12)])
        self.smooth, self.predict = conv_bn(8, 8), nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> list[Tensor]:
        c1 = self.c1(x)
        c2 = self.c2(c1)
        p3 = self.laterals[2](self.c3(c2))
        p2 = self.laterals[1](c2) + F.interpolate(p3, scale_factor=2.0, mode="nearest")
        p1 = self.laterals[0](c1) + F.interpolate(p2, size=c1.shape[-2:], mode="nearest")
        return [self.predict(self.smooth(p)) for p in (p1, p2, p3)]


@case("interpolate", images())
class Interpolate(nn.Module):
    """Bilinear, bicubic and area resampling, nn.Upsample."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv_bn(3, 8), conv_bn(8, 10), conv_bn(10, 8)
        self.up, self.out = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.interpolate(self.a(x), size=(4, 4), mode="bilinear", align_corners=False)
        y = F.interpolate(self.b(y), scale_factor=1.5, mode="bicubic")
        return self.out(self.up(F.interpolate(self.c(y), size=(3, 3), mode="area")))


@case("pixel-shuffle", images(), source="Shi et al. 2016, arXiv:1609.05158")
def pixel_shuffle() -> nn.Module:
    """Pixel unshuffle and pixel shuffle around convolutions; a picture twice the size."""
    return nn.Sequential(
        *[conv_bn(3, 6), nn.PixelUnshuffle(2), nn.Conv2d(24, 16, 3, padding=1), nn.ReLU(), nn.PixelShuffle(2)],
        *[nn.Conv2d(4, 12, 3, padding=1), nn.PixelShuffle(2)],
    )


@case("space-to-depth", images())
class SpaceToDepth(nn.Module):
    """Patches folded into channels by view, permute and reshape, sizes held in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.width, self.block = conv_bn(3, 6), 6, 2
        self.conv, self.head = conv_bn(24, 10, 1), Head(10)

    def forward(self, x: Tensor) -> Tensor:
        x, b = self.stem(x), self.block
        n, _, h, w = x.shape
        x = x.view(n, self.width, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4)
        return self.head(self.conv(x.reshape(n, b * b * self.width, h // b, w // b)))


@case("autoencoder", images())
class AutoEncoder(nn.Module):
    """Strided convolutions to a code and transposed ones back, through a linear layer and an unflatten."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(conv_bn(3, 6, stride=2), conv_bn(6, 8, stride=2), nn.Flatten(), nn.Linear(32, 10))
        self.lift, self.shape = nn.Linear(10, 32), nn.Unflatten(1, (8, 2, 2))
        self.up = nn.Sequential(nn.ConvTranspose2d(8, 6, 2, 2), nn.ReLU(), nn.ConvTranspose2d(6, 3, 2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.shape(F.relu(self.lift(self.down(x)))))


@case("aspp", images(), source="Chen et al. 2017, arXiv:1706.05587")
class ASPP(nn.Module):
    """Dilated branches and a global branch spread back over all positions, concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.branches = nn.ModuleList([nn.Conv2d(8, 5, 3, padding=d, dilation=d) for d in (1, 2, 3)])
        self.globally, self.out = nn.Conv2d(8, 5, 1), nn.Conv2d(20, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        whole = F.relu(self.globally(F.adaptive_avg_pool2d(x, 1))).expand(-1, -1, *x.shape[2:])
        return self.out(torch.cat([*(F.relu(f(x)) for f in self.branches), whole], 1))
