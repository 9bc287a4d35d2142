"""Small networks whose own weights or outputs hide a wrong cut: dead paths, tiny scales, saturation, integers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sartor.seed import seeded
from sartor.structure.example import Example
from sartor.testing.zoo import ZOO
from sartor.torch_internals import BatchNorm

Built = tuple[nn.Module, Example]


class Classes(nn.Module):
    """Returns the class of each sample, and no numbers besides."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Any:
        """[n, ...] -> {"classes": int64 [n], "best": int64 [n, 2]}."""
        scores = self.network(x)
        return {"classes": scores.argmax(1), "best": scores.topk(2, 1).indices}


class Saturated(nn.Module):
    """A network behind a sigmoid that is 0 or 1 for every sample."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        self.scale = nn.Parameter(torch.tensor(1e6))

    def forward(self, x: Tensor) -> Tensor:
        """[n, ...] -> [n, classes]."""
        return (self.scale * self.network(x)).sigmoid()


class Attention(nn.Module):
    """A transformer block with a class token: norms mix the stream, and the scale of attention the head dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 4, 4)
        self.token, self.positions = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.zeros(1, 5, 16))
        self.norms = nn.ModuleList([nn.LayerNorm(16) for _ in range(3)])
        self.heads, self.qkv, self.project = 4, nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down, self.out = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """[n, 3, 8, 8] -> [n, 5]."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.positions
        q, k, v = self.qkv(self.norms[0](x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.project(mixed)
        x = x + self.down(nn.functional.gelu(self.up(self.norms[1](x))))
        return self.out(self.norms[2](x)[:, 0])


def hiding() -> dict[str, Callable[[], Built]]:
    """Six networks by name, each with inputs of batch 2."""
    return {
        "CIFAR ResNet": lambda: _of_zoo("cifar-resnet-pad"),
        "zero-init ResNet": _zero_init,
        "ConvNeXt, layer scale 1e-6": _layer_scale,
        "ViT": _vit,
        "integer outputs": lambda: _wrapped(Classes),
        "saturated": lambda: _wrapped(Saturated),
    }


def _of_zoo(name: str) -> Built:
    case = ZOO[name].value
    return case.build(), case.example()


def _zero_init() -> Built:
    """The last norm of every residual branch has gain and shift 0, as `zero_init_residual` sets them."""
    model, example = _of_zoo("resnet")
    with torch.no_grad():
        for block in list(model.children())[1:-1]:
            norms = [m for m in block.modules() if isinstance(m, BatchNorm)]
            assert norms[1].weight is not None
            norms[1].weight.zero_()
            norms[1].bias.zero_()
    return model, example


def _layer_scale() -> Built:
    model, example = _of_zoo("convnext")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("gamma"):
                p.fill_(1e-6)
    return model, example


def _vit() -> Built:
    with seeded(0), torch.random.fork_rng(devices=[]):
        return Attention().eval(), torch.randn(2, 3, 8, 8)


def _wrapped(kind: type[nn.Module]) -> Built:
    model, example = _of_zoo("resnet")
    return kind(model).eval(), example


__all__ = ["Built", "hiding"]
