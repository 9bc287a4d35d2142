"""Adapters on a frozen transformer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.structure.example import Example
from sartor.testing.workloads.pictures import two_parts
from sartor.testing.workloads.workload import Workload, difference, workload
from sartor.types import Data


class Adapted(nn.Module):
    """A frozen linear layer with a trained low-rank change beside it."""

    def __init__(self, cin: int, cout: int, rank: int = 4):
        super().__init__()
        self.base = nn.Linear(cin, cout).requires_grad_(False)
        self.down, self.up = nn.Linear(cin, rank, bias=False), nn.Linear(rank, cout, bias=False)
        nn.init.normal_(self.up.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))

    def merged(self) -> nn.Linear:
        """One linear layer that computes the same."""
        weight = self.base.weight + self.up.weight @ self.down.weight
        whole = nn.Linear(weight.shape[1], weight.shape[0])
        with torch.no_grad():
            whole.weight.copy_(weight)
            whole.bias.copy_(self.base.bias)
        return whole


class FrozenBlock(nn.Module):
    """A transformer block with frozen weights; queries and values are adapted."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = (nn.LayerNorm(width).requires_grad_(False) for _ in range(2))
        self.query, self.value = Adapted(width, width), Adapted(width, width)
        self.key, self.out = (nn.Linear(width, width).requires_grad_(False) for _ in range(2))
        self.up = nn.Linear(width, 4 * width).requires_grad_(False)
        self.down = nn.Linear(4 * width, width).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (p(y).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.query, self.key, self.value))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class NetworkingModel(nn.Module):
    """Measurements enter through trained encoders, pass a frozen transformer, and leave through heads of two tasks."""

    def __init__(self, inputs: int = 4, width: int = 24, heads: int = 2, blocks: int = 2, choices: int = 4):
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(FrozenBlock(width, heads) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.choose, self.predict = nn.Linear(width, choices), nn.Linear(width, 1)

    def forward(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """[n, time, inputs] -> logits of the choice [n, choices], the next throughput [n]."""
        x = self.enter(history)
        for block in self.blocks:
            x = block(x)
        last = self.norm(x)[:, -1]
        return self.choose(last), self.predict(last)[:, 0]


def throughput(n: int, seed: int, time: int = 8) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Histories of a link, the bit rate that its mean allows (0 to 3), and its next value."""
    generator = torch.Generator().manual_seed(seed)
    level = 4 * torch.rand(n, 1, generator=generator)
    steps = torch.randn(n, time + 1, generator=generator) * 0.3
    link = level + 0.5 * steps.cumsum(1) / 2 + steps
    history = torch.stack([link[:, :-1], *torch.randn(3, n, time, generator=generator) * 0.3], -1)
    return history, (link[:, -4:-1].mean(1).clamp(0, 3.99).long(), link[:, -1])


@workload(
    "netllm", field="adapters", source="arXiv:2402.02338",
    preserves="adapters merged into the frozen layers compute the same, and frozen weights stay frozen",
)  # fmt: skip
class NetLlm(Workload):
    """A language model's blocks, frozen, adapted to networking tasks by low-rank changes."""

    lr = 1e-2
    warm_up = 2

    def network(self) -> nn.Module:
        return NetworkingModel()

    def examples(self) -> Sequence[Example]:
        return [throughput(2, 0)[0], throughput(1, 1, 12)[0], throughput(3, 2, 5)[0]]

    def data(self) -> Data:
        return two_parts(throughput, (256, 128), 16, self.seed)

    def loss(self) -> Callable[[Any, Any], Tensor]:
        return lambda output, targets: F.cross_entropy(output[0], targets[0]) + 0.2 * F.mse_loss(output[1], targets[1])

    def score(self, output: Any, targets: Any) -> float:
        return 100 * float((output[0].argmax(-1) == targets[0]).double().mean())

    def violation(self, model: nn.Module) -> float:
        worst = 0.0
        for name, m in model.named_modules():
            if isinstance(m, Adapted):
                x = torch.randn(3, m.base.in_features, generator=torch.Generator().manual_seed(len(name)))
                with torch.no_grad():
                    worst = max(worst, difference(m.merged()(x), m(x)))
            if isinstance(m, FrozenBlock) and any(p.requires_grad for p in (*m.up.parameters(), *m.out.parameters())):
                return float("inf")
        return worst
