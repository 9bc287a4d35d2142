"""One small network of the zoo: how it is registered, and how its weights are drawn."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.errors import BadInput
from sartor.registry import Registry
from sartor.seed import seeded
from sartor.structure.example import Example

MARKS = {
    "later": "it is traced, but full support is not promised yet (recurrent networks, attention)",
    "closure": "a size is held outside of the attributes of modules (in a lambda, a local variable, a literal)",
    "freezes": "contains an operator without a rule: all axes it touches are frozen",
    "hard": "writes through a view: an error is allowed, a wrong result is not",
}


@dataclass(frozen=True)
class Case:
    """A network that runs forward in milliseconds, and inputs for it.

    `build` returns the same weights at every call, in eval mode; `example` the same inputs, of batch 2.
    `exact`: no operator mixes the units of an axis that can be cut (as a mean or a norm over channels does), so every
    cut must equal the zero-masked original. Where it is false, mixed groups may be cut or kept whole.
    `marks` are keys of `MARKS`.
    """

    name: str
    build: Callable[[], nn.Module]
    example: Callable[[], Example]
    exact: bool
    marks: frozenset[str] = frozenset()
    summary: str = ""

    def __post_init__(self) -> None:
        if unknown := self.marks - MARKS.keys():
            raise BadInput(f"zoo case {self.name!r}: expected marks among {', '.join(MARKS)}; got {sorted(unknown)}")

    def __str__(self) -> str:
        return self.name


ZOO: Registry[Case] = Registry("zoo network")


def case(
    name: str,
    example: Callable[[], Example],
    *,
    exact: bool = True,
    marks: tuple[str, ...] = (),
    source: str = "common idiom",
) -> Callable[[Callable[[], nn.Module]], Any]:
    """Register a class or function that builds a module; its weights are drawn with a seed derived from the name."""

    def enter(factory: Any) -> Any:
        def build() -> nn.Module:
            seed = zlib.crc32(name.encode()) % 2**31
            with seeded(seed):
                model: nn.Module = factory()
                randomise_(model)
            return model.eval()

        summary = (factory.__doc__ or "").strip().split("\n")[0]
        entry = Case(name, build, example, exact, frozenset(marks), summary)
        ZOO.add(name, entry, source=source, summary=summary)
        return factory

    return enter


def randomise_(model: nn.Module) -> None:
    """Draw every floating parameter and running statistic at random, so that none is a neutral 0 or 1.

    Weights of two and more dimensions ~ N(0, 2 / fan_in); biases and running means ~ N(0, 0.3^2); running variances
    ~ U(0.5, 2); every other vector (norm and layer scales, slopes of PReLU) ~ U(0.5, 1.5). Buffers that are not
    running statistics stay. Uses torch's global generator: call it inside `seeded`.
    """
    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.is_floating_point():
                continue
            if p.squeeze().dim() >= 2:
                p.normal_(0.0, (2.0 / (p.numel() / p.shape[0])) ** 0.5)
            elif "bias" in name.rsplit(".", 1)[-1] or name.endswith("shift"):
                p.normal_(0.0, 0.3)
            else:
                p.uniform_(0.5, 1.5)
        for name, b in model.named_buffers():
            if name.endswith("running_mean"):
                b.normal_(0.0, 0.3)
            elif name.endswith("running_var"):
                b.uniform_(0.5, 2.0)


def images(channels: int = 3, *size: int, batch: int = 2, seed: int = 1) -> Callable[[], Tensor]:
    """Standard normal inputs [batch, channels, *size]; size defaults to 8 x 8."""
    shape = (batch, channels, *(size or (8, 8)))
    return lambda: torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rows(*features: int, batch: int = 2, seed: int = 1) -> Callable[[], Tensor]:
    """Standard normal inputs [batch, *features]."""
    return lambda: torch.randn((batch, *features), generator=torch.Generator().manual_seed(seed))


def tokens(vocabulary: int, length: int, *, batch: int = 2, seed: int = 1) -> Callable[[], Tensor]:
    """Indices [batch, length], int64, below `vocabulary`."""
    return lambda: torch.randint(vocabulary, (batch, length), generator=torch.Generator().manual_seed(seed))


def conv_bn(
    cin: int, cout: int, kernel: int = 3, *, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """Convolution without bias, batch norm and ReLU, same padding."""
    layers: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(cout),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if act else []))


class Head(nn.Module):
    """Mean over all positions, then a linear layer to `classes`."""

    def __init__(self, width: int, classes: int = 5):
        super().__init__()
        self.fc = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(2).mean(2))
