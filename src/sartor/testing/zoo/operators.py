"""Operators that few networks use, each in the smallest network that needs it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.testing.zoo.case import Head, case, conv_bn, images, rows


@case("message-passing", rows(5, 4), source="Gilmer et al. 2017, arXiv:1704.01212")
class MessagePassing(nn.Module):
    """A graph of five nodes: index_select, gather, index_add, scatter_add and writing by index."""

    source: Tensor
    target: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.message, self.update = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 6)
        self.out = nn.Linear(6, 3)
        self.register_buffer("source", torch.tensor([0, 1, 2, 3, 4, 0]))
        self.register_buffer("target", torch.tensor([1, 2, 3, 4, 0, 2]))

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x).relu()
        sent = self.message(x).index_select(1, self.source)
        x = x + torch.zeros_like(x).index_add(1, self.target, sent)
        index = self.target[None, :, None].expand(x.shape[0], -1, x.shape[2])
        x = x + torch.zeros_like(x).scatter_add(1, index, sent.relu())
        x = x + x.gather(1, self.source[None, :5, None].expand(x.shape[0], -1, x.shape[2]))
        y = x.clone()
        y[:, self.target[:2]] = x[:, :2] * 0.5
        return self.out(self.update(y).relu().mean(1))


@case("vectors", rows(6))
class Vectors(nn.Module):
    """Products with vectors: matrix by vector, dot, outer."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(6, 8)
        self.v, self.m = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(5, 8))
        self.p, self.q = nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(8))
        self.s, self.t = nn.Parameter(torch.randn(8)), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        gain = torch.mv(self.m, self.v).sum() + torch.dot(self.s, self.t)
        return x @ torch.outer(self.p, self.q).t() * (1 + 0.1 * gain)


@case("diagonals", rows(5, 4))
class Diagonals(nn.Module):
    """Products of units with units: their diagonal, a vector put on a diagonal, and a diagonal beside the main one."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.side = nn.Linear(4, 8), nn.Linear(4, 7)
        self.other, self.head = nn.Linear(5, 6), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lift(x).relu()  # [n, 5, 8]
        products = h.transpose(1, 2) @ h
        y = products.diagonal(dim1=1, dim2=2) * 0.1
        y = (torch.diag_embed(y) + products) @ y[..., None]
        beside = self.other(self.side(x).relu().transpose(1, 2))  # [n, 7, 6]
        return self.head(y[..., 0] * 0.1 + h.mean(1) * beside.diagonal(1, 1, 2).sum(-1, keepdim=True).tanh())


@case("windows", rows(3, 12))
class Windows(nn.Module):
    """Operators that move a signal: movedim, narrow, unfold along time, and triangular scores."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Linear(3, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x.movedim(1, 2)).relu()  # [batch, time, 8]
        x = x.narrow(1, 2, 8).unfold(1, 4, 2).mean(-1)  # [batch, 3, 8]
        scores = torch.tril(x @ x.transpose(1, 2)) * 0.1
        return self.head((x + scores @ x).mean(1))


@case("fold", images())
class Fold(nn.Module):
    """A picture split into patches and put together again."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mid, self.head = conv_bn(3, 6), conv_bn(6, 5), Head(5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        patches = F.unfold(x, 2, stride=2)
        return self.head(self.mid(F.fold(patches * 1.5, x.shape[-2:], 2, stride=2)))


@case("fourier", rows(6, 16), source="Li et al. 2020, arXiv:2010.08895")
class Fourier(nn.Module):
    """Channels filtered by frequency: a transform along time, complex numbers viewed as pairs."""

    def __init__(self) -> None:
        super().__init__()
        self.lift, self.head = nn.Conv1d(6, 8, 1), Head(8)
        self.filter = nn.Parameter(torch.randn(9, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = self.lift(x).relu()
        spectrum = torch.fft.rfft(x, dim=-1)
        spectrum = torch.view_as_complex(torch.view_as_real(spectrum) * self.filter)
        return self.head(x + torch.fft.irfft(spectrum, n=16, dim=-1))


@case("as-strided", rows(6))
class AsStrided(nn.Module):
    """Memory is addressed directly: all axes of the operator are frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu())
        return self.c(x.as_strided((x.shape[0], 8), (8, 1)).relu())
