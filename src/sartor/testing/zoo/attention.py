"""Attention with heads in groups and without a softmax, stacked experts, a selective scan."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.testing.zoo.case import case, rows, tokens


@case("grouped-query", tokens(20, 6), exact=False, source="Ainslie et al. 2023, arXiv:2305.13245")
class GroupedQuery(nn.Module):
    """A decoder layer: four query heads share two heads of keys and values; a gated MLP; tanh-GELU written out."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.shared, self.width = 4, 2, 6
        self.words, self.norm1, self.norm2 = nn.Embedding(20, 16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.q, self.k, self.v = nn.Linear(16, 24), nn.Linear(16, 12), nn.Linear(16, 12)
        self.o, self.out = nn.Linear(24, 16), nn.Linear(16, 5)
        self.gate, self.up, self.down = nn.Linear(16, 20), nn.Linear(16, 20), nn.Linear(20, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x)
        n, t, _ = x.shape
        y = self.norm1(x)
        q = self.q(y).view(n, t, self.heads, self.width).transpose(1, 2)
        k = self.k(y).view(n, t, self.shared, self.width).transpose(1, 2)
        v = self.v(y).view(n, t, self.shared, self.width).transpose(1, 2)
        k, v = (z.repeat_interleave(self.heads // self.shared, 1) for z in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.4)
        x = x + self.o(y.transpose(1, 2).reshape(n, t, self.heads * self.width))
        y = self.gate(self.norm2(x))
        y = 0.5 * y * (1 + torch.tanh(0.8 * (y + 0.04 * y**3)))
        return self.out((x + self.down(y * self.up(self.norm2(x)))).mean(1))


@case("partial-rotary", rows(5, 16), source="Su et al. 2021, arXiv:2104.09864; GPT-NeoX")
class PartialRotary(nn.Module):
    """One layer for queries, keys and values of a head; a part of each query and key is rotated, and no value is."""

    def __init__(self) -> None:
        super().__init__()
        self.head_size, self.rotated = 8, 4
        self.qkv, self.out = nn.Linear(16, 3 * 24), nn.Linear(24, 5)

    def rotate(self, x: Tensor) -> Tensor:
        turned, rest = x[..., : self.rotated], x[..., self.rotated :]
        half = turned.shape[-1] // 2
        angles = torch.arange(x.shape[-2], dtype=x.dtype)[:, None]
        other = torch.cat([-turned[..., half:], turned[..., :half]], -1)
        return torch.cat([turned * angles.cos() + other * angles.sin(), rest], -1)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, -1, 3 * self.head_size).transpose(1, 2).chunk(3, -1)
        scores = self.rotate(q) @ self.rotate(k).transpose(-1, -2) * 0.4
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, -1))


@case("scaled-by-width", rows(6, 12), source="torchvision RAFT; transformers DeBERTa-v2; common idiom")
class ScaledByWidth(nn.Module):
    """Scores are divided by numbers that the forward computes from a width: a number, a power, a tensor, its root."""

    def __init__(self) -> None:
        super().__init__()
        self.dim = 8
        self.embed = nn.Linear(12, 10)
        self.q, self.k, self.v, self.w = (nn.Linear(10, 8) for _ in range(4))
        self.more, self.out = nn.Linear(10, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        q, k, v, w = self.q(x), self.k(x), self.v(x), self.w(x)
        scores = q @ k.transpose(-1, -2) / q.size(-1) ** 0.5
        scores = scores + v @ w.transpose(-1, -2) / torch.sqrt(torch.tensor(v.size(-1)))
        scores = scores + q @ v.view(*v.shape[:-1], self.dim).transpose(-1, -2) * self.dim**-0.5
        more = self.more(x)
        scores = scores + more @ more.transpose(-1, -2) / more.size(-1)
        return self.out((scores.sigmoid() @ more).mean(1))


@case("linear-attention", rows(6, 12), source="Katharopoulos et al. 2020, arXiv:2006.16236")
class LinearAttention(nn.Module):
    """Keys and values are multiplied first; there is no softmax and no normaliser."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 3, 4
        self.embed, self.qkv = nn.Linear(12, 10), nn.Linear(10, 36)
        self.o, self.out = nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        n, t, _ = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.relu(q) @ (F.relu(k).transpose(-2, -1) @ v) / t
        x = x + self.o(y.transpose(1, 2).reshape(n, t, self.heads * self.width))
        return self.out(x.mean(1))


@case("experts", rows(12), exact=False, source="Shazeer et al. 2017, arXiv:1701.06538")
class Experts(nn.Module):
    """Three MLPs with stacked weights, all of them run and weighted by a router."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.router, self.out = nn.Linear(12, 8), nn.Linear(8, 3), nn.Linear(8, 5)
        self.up, self.down = nn.Parameter(torch.empty(3, 8, 14)), nn.Parameter(torch.empty(3, 14, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.embed(x))
        weights = self.router(x).softmax(-1)  # [batch, experts]
        y = F.relu(torch.einsum("bd,edh->ebh", x, self.up))
        y = torch.bmm(y, self.down)
        return self.out(x + (y * weights.t()[:, :, None]).sum(0))


@case("selective-scan", rows(5, 8), exact=False, source="Gu and Dao 2023, arXiv:2312.00752")
class SelectiveScan(nn.Module):
    """A state of several numbers for each channel; the input decides step by step how it decays and is read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.into, self.rates = nn.Linear(8, 10), nn.Linear(10, 12), nn.Linear(12, 2)
        self.step, self.keys, self.reads = nn.Linear(2, 12), nn.Linear(12, 4), nn.Linear(12, 4)
        self.log_decay = nn.Parameter(torch.empty(12, 4))
        self.back, self.out = nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        u = F.relu(self.into(x))
        step = F.softplus(self.step(self.rates(u)))[..., None]
        decay = torch.exp(-step * torch.exp(self.log_decay))  # [batch, time, channel, state]
        write = step * self.keys(u)[:, :, None] * u[..., None]
        state = torch.zeros_like(write[:, 0])
        seen = []
        for t in range(u.shape[1]):
            state = decay[:, t] * state + write[:, t]
            seen.append((state * self.reads(u)[:, t, None]).sum(-1))
        return self.out((x + self.back(torch.stack(seen, 1))).mean(1))


@case("register-tokens", rows(6, 12), exact=False, source="Darcet et al. 2024, arXiv:2309.16588")
class RegisterTokens(nn.Module):
    """Learned positions that attention reads beside the input's, and that are dropped in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.registers = nn.Linear(12, 8), nn.Parameter(torch.zeros(1, 3, 8))
        self.q, self.k, self.v = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 10)
        self.out = nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        registers = self.registers.expand(x.shape[0], -1, -1)
        x = torch.cat([self.embed(x), registers], 1)
        y = F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
        return self.out(y[:, :6].mean(1))
