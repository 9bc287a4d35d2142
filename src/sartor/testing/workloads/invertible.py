"""Networks that can be run backwards: rescaling of pictures with the details in latent variables."""

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


class Coupling(nn.Module):
    """The first part is shifted by a function of the second, the second scaled and shifted by one of the first."""

    def __init__(self, first: int, second: int, hidden: int, given: int = 0):
        super().__init__()
        self.first, self.second = first, second

        def part(cin: int, cout: int) -> nn.Module:
            return nn.Sequential(
                nn.Conv2d(cin + given, hidden, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv2d(hidden, cout, 3, padding=1)
            )

        self.shift_first, self.scale, self.shift_second = part(second, first), part(first, second), part(first, second)

    def forward(self, x: Tensor, given: Sequence[Tensor] = ()) -> Tensor:
        a, b = torch.split(x, [self.first, self.second], 1)
        a = a + self.shift_first(torch.cat([b, *given], 1))
        seen = torch.cat([a, *given], 1)
        b = b * self._gain(seen) + self.shift_second(seen)
        return torch.cat([a, b], 1)

    def inverse(self, y: Tensor, given: Sequence[Tensor] = ()) -> Tensor:
        """Undo the forward."""
        a, b = torch.split(y, [self.first, self.second], 1)
        seen = torch.cat([a, *given], 1)
        b = (b - self.shift_second(seen)) / self._gain(seen)
        a = a - self.shift_first(torch.cat([b, *given], 1))
        return torch.cat([a, b], 1)

    def _gain(self, seen: Tensor) -> Tensor:
        return (self.scale(seen).sigmoid() * 2 - 1).exp()


class ArbitraryRescaling(nn.Module):
    """Down by any factor through invertible couplings of what the small picture can hold and what it cannot."""

    def __init__(self, hidden: int = 16, blocks: int = 2):
        super().__init__()
        self.blocks = nn.ModuleList(Coupling(3, 3, hidden, given=1) for _ in range(blocks))

    def forward(self, picture: Tensor, factor: float) -> tuple[Tensor, Tensor]:
        """[n, 3, h, w] -> the small picture, and the picture restored from it alone."""
        size = [int(s / factor) for s in picture.shape[-2:]]
        low = self._up(self._down(picture, size), picture.shape[-2:])
        y = self.couple(torch.cat([low, picture - low], 1), factor)
        small = self._down(y[:, :3], size)
        spread = self._up(small, picture.shape[-2:])
        back = self.uncouple(torch.cat([spread, torch.zeros_like(spread)], 1), factor)
        return small, back[:, :3] + back[:, 3:]

    def couple(self, x: Tensor, factor: float) -> Tensor:
        """Low and high frequencies [n, 6, h, w] mixed by all blocks, which are told the factor."""
        for block in self.blocks:
            x = block(x, [torch.full_like(x[:, :1], factor)])
        return x

    def uncouple(self, y: Tensor, factor: float) -> Tensor:
        """Undo `couple`."""
        for block in reversed(self.blocks):
            y = block.inverse(y, [torch.full_like(y[:, :1], factor)])  # type: ignore[operator]
        return y

    def _down(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(x, tuple(size), mode="bilinear", antialias=True)

    def _up(self, x: Tensor, size: Sequence[int]) -> Tensor:
        return F.interpolate(x, tuple(size), mode="bilinear")


class Rescaling(Workload):
    """A picture made small and large again."""

    quality_name = "PSNR (dB)"
    lr = 2e-3
    tolerance = 1e-4

    def loss(self) -> Callable[[Any, Any], Tensor]:
        guide = lambda small, full: F.mse_loss(small, F.interpolate(full, small.shape[-2:], mode="area"))
        return lambda output, targets: F.l1_loss(output[1], targets) + guide(output[0], targets)

    def score(self, output: Any, targets: Any) -> float:
        return psnr(output[1], targets)


@workload(
    "iarn",
    field="vision",
    source="Effective invertible arbitrary image rescaling",
    preserves="the couplings run backwards give their input",
)
class Iarn(Rescaling):
    """Invertible rescaling by any factor, which the couplings are told."""

    def network(self) -> nn.Module:
        return ArbitraryRescaling()

    def examples(self) -> Sequence[Example]:
        return [(pictures(2, 12, 12), 1.5), (pictures(1, 16, 10), 2.0), (pictures(3, 12, 12), 1.25)]

    def data(self) -> Data:
        def make(n: int, seed: int) -> tuple[Tensor, Tensor]:
            sharp = pictures(n, 12, 12, seed=seed)
            return sharp, sharp

        pairs = two_parts(make, (64, 16), 8, self.seed)
        told = lambda part: [((x, 1.5), y) for x, y in part]
        return Data(train=told(pairs.train), val=told(pairs.val))

    def violation(self, model: nn.Module) -> float:
        x = torch.cat([pictures(2, 12, 12), pictures(2, 12, 12, seed=1) - 0.5], 1)
        with torch.no_grad():
            return difference(model.uncouple(model.couple(x, 2.5), 2.5), x)  # type: ignore[operator]


class DualLatent(nn.Module):
    """Haar frequencies coupled; one latent holds the details, a second one what rounding the small picture loses."""

    haar: Tensor
    order: Tensor

    def __init__(self, hidden: int = 16, blocks: int = 2):
        super().__init__()
        self.blocks = nn.ModuleList(Coupling(3, 9, hidden) for _ in range(blocks))
        self.rounding = Coupling(3, 3, hidden)
        signs = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2
        self.register_buffer("haar", signs.reshape(4, 1, 2, 2).repeat(3, 1, 1, 1))
        self.register_buffer("order", torch.tensor([0, 4, 8, 1, 2, 3, 5, 6, 7, 9, 10, 11]))

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """[n, 3, h, w] -> the small picture, the picture restored from it, and the lost details."""
        y, details = self.encode(picture)
        steps = (y * 255).round() / 255
        small = y + (steps - y).detach()
        return small, self.decode(small, torch.zeros_like(small), torch.zeros_like(details)), details

    def encode(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """The small picture and the details [n, 9, h / 2, w / 2]."""
        x = F.conv2d(picture, self.haar, stride=2, groups=3)[:, self.order]
        x = torch.cat([x[:, :3] / 2, x[:, 3:]], 1)
        for block in self.blocks:
            x = block(x)
        return x[:, :3], x[:, 3:]

    def decode(self, small: Tensor, lost: Tensor, details: Tensor) -> Tensor:
        """The picture from the small one, what rounding lost of it, and the details."""
        paired = self.rounding(torch.cat([small, lost], 1))
        return self.join(small + (paired[:, 3:] - lost) * 0.1, details)

    def join(self, small: Tensor, details: Tensor) -> Tensor:
        """Undo `encode`."""
        x = torch.cat([small, details], 1)
        for block in reversed(self.blocks):
            x = block.inverse(x)  # type: ignore[operator]
        x = torch.cat([x[:, :3] * 2, x[:, 3:]], 1)[:, self.order.argsort()]
        return F.conv_transpose2d(x, self.haar, stride=2, groups=3)


@workload(
    "dual-latent", field="vision", source="arXiv:2207.11844",
    preserves="encoding and decoding with the details gives the picture",
)  # fmt: skip
class DualLatentRescaling(Rescaling):
    """Invertible rescaling with a latent for details and a second one for what rounding loses."""

    def network(self) -> nn.Module:
        return DualLatent()

    def examples(self) -> Sequence[Example]:
        return [pictures(2, 12, 12), pictures(1, 16, 10), pictures(3, 8, 8)]

    def data(self) -> Data:
        def make(n: int, seed: int) -> tuple[Tensor, Tensor]:
            sharp = pictures(n, 12, 12, seed=seed)
            return sharp, sharp

        return two_parts(make, (64, 16), 8, self.seed)

    def violation(self, model: nn.Module) -> float:
        picture = self.examples()[1]
        with torch.no_grad():
            return difference(model.join(*model.encode(picture)), picture)  # type: ignore[operator]
