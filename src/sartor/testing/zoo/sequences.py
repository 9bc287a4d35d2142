"""Recurrent networks and attention."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from sartor.testing.zoo.case import case, rows, tokens

ATTENTION = "Vaswani et al. 2017, arXiv:1706.03762"


@case("lstm", rows(6, 8), marks=("later",), source="Hochreiter and Schmidhuber 1997")
class LSTM(nn.Module):
    """A one-layer LSTM over a short sequence, its last state classified."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.out = nn.Linear(8, 10), nn.LSTM(10, 12, batch_first=True), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        states, _ = self.rnn(F.relu(self.embed(x)))
        return self.out(states[:, -1])


@case("gru", rows(6, 8), marks=("later",), source="Cho et al. 2014, arXiv:1406.1078")
class GRU(nn.Module):
    """A two-layer bidirectional GRU, its states averaged."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.out = nn.GRU(8, 6, 2, batch_first=True, bidirectional=True), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(x)[0].mean(1))


def _lengths() -> tuple[Tensor, Tensor]:
    return tokens(20, 6)(), torch.tensor([4, 6])


@case("packed-gru", _lengths, marks=("later",), source="Cho et al. 2014, arXiv:1406.1078")
class PackedGRU(nn.Module):
    """A two-layer bidirectional GRU over sequences of several lengths, packed without sorting them first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(20, 7), nn.GRU(7, 6, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(x), lengths, batch_first=True, enforce_sorted=False)
        return self.out(pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=x.shape[1])[0])


@case("packed-lstm", _lengths, marks=("later",), source="Hochreiter and Schmidhuber 1997")
class PackedLSTM(nn.Module):
    """The last states of an LSTM over packed sequences, from initial states that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn = nn.Embedding(20, 7), nn.LSTM(7, 8)
        self.first = nn.Parameter(torch.zeros(2, 1, 1, 8))
        self.out = nn.Linear(8, 5)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(x.t()), lengths, enforce_sorted=False)
        h, c = self.first.expand(2, 1, x.shape[0], -1)
        return self.out(self.rnn(packed, (h.contiguous(), c.contiguous()))[1][0][-1])


@case("multi-head-attention", rows(6, 16), exact=False, marks=("later",), source=ATTENTION)
class MultiHead(nn.Module):
    """nn.MultiheadAttention in a residual block."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(16, 16), nn.LayerNorm(16)
        self.attention, self.out = nn.MultiheadAttention(16, 4, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return self.out(x.mean(1))


@case("fused-qkv", rows(6, 12), exact=False, marks=("later",), source=ATTENTION)
class FusedQKV(nn.Module):
    """Scaled dot product attention from one fused projection, sizes held in attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.head_dim = 3, 8
        self.norm, self.qkv, self.proj = nn.LayerNorm(12), nn.Linear(12, 72), nn.Linear(24, 12)
        self.out = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        qkv = self.qkv(self.norm(x)).reshape(n, t, 3, self.heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(y.transpose(1, 2).reshape(n, t, self.heads * self.head_dim))
        return self.out(x.mean(1))


@case("plain-attention", rows(6, 12), marks=("later",), source=ATTENTION)
class PlainAttention(nn.Module):
    """Attention written with matrix products, a fixed scale and a causal mask, without any norm."""

    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(12, 10)
        self.out, self.scale = nn.Linear(10, 5), 8**-0.5
        self.register_buffer("mask", torch.ones(6, 6).tril().bool())

    def forward(self, x: Tensor) -> Tensor:
        scores = self.q(x) @ self.k(x).transpose(-2, -1) * self.scale
        weights = scores.masked_fill(~self.mask, float("-inf")).softmax(-1)
        return self.out((weights @ self.v(x)).mean(1))


@case("transformer-encoder", tokens(20, 6), exact=False, marks=("later",), source=ATTENTION)
class Encoder(nn.Module):
    """Token and position embeddings, one nn.TransformerEncoderLayer, a classifier on the first token."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(20, 16), nn.Embedding(6, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True, norm_first=True)
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.words(x) + self.positions(torch.arange(x.shape[1], device=x.device))
        return self.out(self.layer(x)[:, 0])
