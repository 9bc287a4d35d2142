"""Pictures restored: super-resolution, inpainting, and volumes over time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.structure.example import Example
from sartor.testing.workloads.pictures import pictures, psnr, two_parts
from sartor.testing.workloads.workload import Workload, difference, workload
from sartor.types import Data

LeakyReLU = lambda: nn.LeakyReLU(0.05)


class Distillation(nn.Module):
    """Each convolution keeps a quarter of its channels aside; the parts are weighted by their contrast and fused."""

    def __init__(self, width: int):
        super().__init__()
        self.part, self.act = width // 4, LeakyReLU()
        rest = width - self.part
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(rest, width, 3, padding=1)
        self.third = nn.Conv2d(rest, width, 3, padding=1)
        self.last = nn.Conv2d(rest, self.part, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(width, max(2, width // 4), 1), nn.Conv2d(max(2, width // 4), width, 1)
        self.fuse = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, rest = [], x
        for conv in (self.first, self.second, self.third):
            y = self.act(conv(rest))
            aside, rest = torch.split(y, [self.part, y.shape[1] - self.part], dim=1)
            kept.append(aside)
        y = torch.cat([*kept, self.last(rest)], 1)
        contrast = y.mean((2, 3), keepdim=True) + y.var((2, 3), keepdim=True, unbiased=False).add(1e-6).sqrt()
        weight = self.excite(self.squeeze(contrast).relu()).sigmoid()
        return x + self.fuse(y * weight)


class InformationDistillation(nn.Module):
    """Super-resolution by a factor: distillation blocks, their outputs fused, channels shuffled into pixels."""

    def __init__(self, width: int = 16, blocks: int = 2, factor: int = 2):
        super().__init__()
        self.head = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Distillation(width) for _ in range(blocks))
        self.fuse, self.mix = nn.Conv2d(width * blocks, width, 1), nn.Conv2d(width, width, 3, padding=1)
        self.tail, self.shuffle = nn.Conv2d(width, 3 * factor**2, 3, padding=1), nn.PixelShuffle(factor)

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.head(x)
        outputs = []
        for block in self.blocks:
            y = block(y)
            outputs.append(y)
        y = self.mix(F.leaky_relu(self.fuse(torch.cat(outputs, 1)), 0.05)) + first
        return self.shuffle(self.tail(y)) + F.interpolate(x, scale_factor=2, mode="bilinear")


class SuperResolution(Workload):
    """Low-resolution pictures in, high-resolution pictures out."""

    quality_name = "PSNR (dB)"
    lr = 3e-3

    def examples(self) -> Sequence[Example]:
        return [pictures(2, 12, 12), pictures(1, 16, 9), pictures(3, 10, 20)]

    def data(self) -> Data:
        def make(n: int, seed: int) -> tuple[Tensor, Tensor]:
            sharp = pictures(n, 24, 24, seed=seed)
            return F.avg_pool2d(sharp, 2), sharp

        return two_parts(make, (64, 16), 8, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return F.l1_loss

    def score(self, output: Any, targets: Any) -> float:
        return psnr(output, targets)

    def violation(self, model: nn.Module) -> float:
        """A fully convolutional network: far from the border, a shifted picture gives a shifted picture."""
        wide = F.pad(pictures(1, 12, 12, seed=3), (20, 20, 20, 20))
        with torch.no_grad():
            moved, still = model(wide.roll(2, -1)), model(wide)
        inner = (..., slice(28, -28), slice(28, -28))
        return difference(moved[inner], still.roll(4, -1)[inner])


@workload("imdn", field="vision", source="arXiv:1909.11856", preserves="a shifted picture gives a shifted picture")
class Imdn(SuperResolution):
    """Information multi-distillation: channels split off step by step, joined again, weighted by contrast."""

    tolerance = 2e-3  # the contrast is a statistic of the whole picture, in which the border moves

    def network(self) -> nn.Module:
        return InformationDistillation()


class Generator(nn.Module):
    """Residual super-resolution generator whose blocks share a long skip."""

    def __init__(self, width: int = 16, blocks: int = 2):
        super().__init__()
        self.head = nn.Conv2d(3, width, 5, padding=2)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width), nn.Conv2d(width, width, 3, padding=1))
            for _ in range(blocks)
        )
        self.up = nn.Sequential(nn.Conv2d(width, 2 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU())
        self.tail = nn.Conv2d(width // 2, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = y = self.head(x).relu()
        for block in self.blocks:
            y = y + block(y)
        return self.tail(self.up(y + first)) + F.interpolate(x, scale_factor=2, mode="bilinear")


class AdversarialLoss:
    """L1 plus the loss of a discriminator that is trained beside the generator, one step a batch."""

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for cin, cout in ((3, 8), (8, 16)):
            layers += [nn.Conv2d(cin, cout, 3, 2, 1), nn.LeakyReLU(0.2)]
        self.judge = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1))
        self.optimizer = torch.optim.Adam(self.judge.parameters(), 1e-3)

    def __call__(self, output: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            real, fake = self.judge(targets), self.judge(output.detach())
            self.optimizer.zero_grad()
            (F.softplus(-real) + F.softplus(fake)).mean().backward()
            self.optimizer.step()
        return F.l1_loss(output, targets) + 1e-3 * F.softplus(-self.judge(output)).mean()


@workload(
    "zipgan",
    field="vision",
    source="ZipGAN, super-resolution with channel pruning",
    preserves="a shifted picture gives a shifted picture",
)
class ZipGan(SuperResolution):
    """A generator for super-resolution, trained against a discriminator; the generator alone is cut."""

    def network(self) -> nn.Module:
        return Generator()

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return AdversarialLoss()


class Gated(nn.Module):
    """A convolution whose features are multiplied by a gate of the same width."""

    def __init__(self, cin: int, cout: int, stride: int = 1):
        super().__init__()
        self.feature, self.gate = (nn.Conv2d(cin, cout, 3, stride, 1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.feature(x)) * self.gate(x).sigmoid()


class RateAdaptive(nn.Module):
    """One weight at several dilation rates; each rate scales and shifts it, one number a channel."""

    def __init__(self, width: int, rates: Sequence[int] = (1, 2, 4)):
        super().__init__()
        self.rates = tuple(rates)
        self.weight = nn.Parameter(torch.randn(width, width, 3, 3) / (3 * width**0.5))
        self.scale = nn.Parameter(torch.ones(len(self.rates), width, 1, 1, 1))
        self.shift = nn.Parameter(torch.zeros(len(self.rates), width))

    def forward(self, x: Tensor) -> Tensor:
        for i, rate in enumerate(self.rates):
            weight = self.weight * self.scale[i]
            x = x + F.elu(F.conv2d(x, weight, self.shift[i], padding=rate, dilation=rate))
        return x


class Inpainting(nn.Module):
    """A shared encoder, one decoder for the coarse path and for the path with contextual attention."""

    def __init__(self, width: int = 12):
        super().__init__()
        self.encoder = nn.Sequential(Gated(4, width), Gated(width, 2 * width, 2), Gated(2 * width, 2 * width))
        self.dilated = RateAdaptive(2 * width)
        self.decoder = nn.Sequential(
            nn.Upsample(scale_factor=2), Gated(2 * width, width), nn.Conv2d(width, 3, 3, padding=1)
        )

    def forward(self, picture: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
        """[n, 3, h, w], [n, 1, h, w] (1: missing) -> coarse and final pictures."""
        shown = picture * (1 - hole)
        features = self.dilated(self.encoder(torch.cat([shown, hole], 1)))
        n, c, h, w = features.shape
        missing = F.max_pool2d(hole, 2).flatten(2)  # [n, 1, h * w]
        flat = features.flatten(2).transpose(1, 2)
        distance = (flat[:, :, None] - flat[:, None]).square().sum(-1)
        attention = (-distance - 1e4 * missing).softmax(-1)
        looked_up = (attention @ flat).transpose(1, 2).reshape(n, c, h, w)
        filled = features + (looked_up - features) * missing.reshape(n, 1, h, w)
        coarse, final = self.decoder(features), self.decoder(filled)
        return shown + coarse * hole, shown + final * hole


@workload("pepsi", field="vision", source="arXiv:1905.09010", preserves="known pixels are passed on as they are")
class Pepsi(Workload):
    """Inpainting in two passes through one decoder; one dilated weight is used at three rates."""

    quality_name = "PSNR (dB)"

    def network(self) -> nn.Module:
        return Inpainting()

    def examples(self) -> Sequence[Example]:
        return [self._inputs(2, 12, 12, 0), self._inputs(1, 16, 12, 1), self._inputs(3, 8, 20, 2)]

    def _inputs(self, n: int, h: int, w: int, seed: int) -> tuple[Tensor, Tensor]:
        hole = torch.zeros(n, 1, h, w)
        hole[:, :, h // 4 : h // 2 + 1, w // 4 : w // 2 + 1] = 1
        return pictures(n, h, w, seed=seed), hole

    def data(self) -> Data:
        def make(n: int, seed: int) -> tuple[Any, Any]:
            picture, hole = self._inputs(n, 12, 12, seed)
            return (picture, hole), picture

        return two_parts(make, (64, 16), 8, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return lambda output, targets: F.l1_loss(output[1], targets) + 0.5 * F.l1_loss(output[0], targets)

    def score(self, output: Any, targets: Any) -> float:
        return psnr(output[1], targets)

    def violation(self, model: nn.Module) -> float:
        picture, hole = self.examples()[1]
        with torch.no_grad():
            return float(((model(picture, hole)[1] - picture) * (1 - hole)).abs().max())


class Volumes(nn.Module):
    """A three-dimensional U-Net over the last volume that was restored and the next coarse one."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.down = nn.Sequential(nn.Conv3d(2, width, 3, padding=1), nn.BatchNorm3d(width), nn.ReLU())
        self.deep = nn.Sequential(nn.Conv3d(width, 2 * width, 3, padding=1), nn.BatchNorm3d(2 * width), nn.ReLU())
        self.up = nn.ConvTranspose3d(2 * width, width, 2, 2)
        self.out = nn.Sequential(nn.Conv3d(2 * width, width, 3, padding=1), nn.ReLU(), nn.Conv3d(width, 1, 1))

    def forward(self, prior: Tensor, frames: Tensor) -> Tensor:
        """Prior volume [n, 1, d, h, w] and frames [n, time, d, h, w] -> restored frames, as the frames."""
        restored = []
        for frame in frames.unbind(1):
            shallow = self.down(torch.cat([prior, frame[:, None]], 1))
            y = self.up(self.deep(F.max_pool3d(shallow, 2)))
            prior = frame[:, None] + self.out(torch.cat([shallow, y], 1))
            restored.append(prior)
        return torch.cat(restored, 1)


@workload("ddos-unet", field="vision", source="arXiv:2202.05355", preserves="a frame does not depend on later frames")
class DdosUnet(Workload):
    """Dynamic volumes made sharp, one after the other: each pass sees the result of the one before."""

    quality_name = "PSNR (dB)"

    def network(self) -> nn.Module:
        return Volumes()

    def examples(self) -> Sequence[Example]:
        return [
            self._inputs(2, 3, (4, 8, 8), 0)[0],
            self._inputs(1, 2, (6, 8, 4), 1)[0],
            self._inputs(1, 4, (4, 8, 8), 2)[0],
        ]

    def _inputs(self, n: int, time: int, size: tuple[int, int, int], seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
        sharp = pictures(n, *size, channels=time + 1, seed=seed)
        coarse = F.interpolate(F.avg_pool3d(sharp, 2), size, mode="trilinear")
        return (sharp[:, :1], coarse[:, 1:]), sharp[:, 1:]

    def data(self) -> Data:
        return two_parts(lambda n, seed: self._inputs(n, 3, (4, 8, 8), seed), (32, 8), 4, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return F.l1_loss

    def score(self, output: Any, targets: Any) -> float:
        return psnr(output, targets)

    def violation(self, model: nn.Module) -> float:
        prior, frames = self.examples()[0]
        with torch.no_grad():
            return difference(model(prior, frames[:, :2]), model(prior, frames)[:, :2])
