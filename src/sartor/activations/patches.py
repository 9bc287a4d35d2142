"""Convolutions and linear layers as one matrix that is applied to rows: which rows there are, and what they hold."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sartor.structure.calls import Op, Value


class Reading:
    """A convolution of any dimension, or a linear layer: out = rows @ weight.T + bias.

    Rows are positions of the output. `rows` and `targets` give, for the same picked positions, what the operator reads
    and what it gives. Transposed convolutions are not rows times one matrix: see `of`.
    """

    def __init__(self, op: Op, weight: Value):
        self.op, self.weight = op, weight
        self.convolution = op.name != "linear"
        self.groups = int(op.arg("groups", 1)) if self.convolution else 1

    @classmethod
    def of(cls, op: Op) -> Reading | None:
        """The reading of an operator whose weight is a parameter; None for any other operator."""
        if op.name not in _SPATIAL:
            return None
        x, w = op.args[0], op.args[1]
        if not isinstance(w, Value) or w.name is None or not isinstance(x, Value) or x.name is not None:
            return None
        if op.name == "linear":
            return cls(op, w) if w.ndim == 2 and x.ndim >= 2 else None
        return cls(op, w) if x.ndim == w.ndim and not isinstance(op.arg("padding", 0), str) else None

    def channel(self, ndim: int) -> int:
        """The dimension of inputs and outputs that the matrix acts on."""
        return 1 if self.convolution else ndim - 1

    def pick(self, out: Tensor, rows: int, generator: torch.Generator) -> Tensor:
        """Positions to read, about `rows` of a batch, the same in every sample of a convolution.

        Args:
            out: the operator's output, [n, channels, *positions] or [..., features].
            rows: how many rows to take from this batch.
            generator: draws them; all are taken when there are fewer.

        Returns:
            int64 [picked], sorted.
        """
        there = out[0, 0].numel() if self.convolution else out[..., 0].numel()
        picked = -(-rows // out.shape[0]) if self.convolution else rows
        if picked >= there:
            return torch.arange(there, device=out.device)
        return torch.randperm(there, generator=generator)[:picked].sort().values.to(out.device)

    def rows(self, x: Tensor, picked: Tensor) -> Tensor:
        """What the operator reads: [groups, rows, inputs of a group], inputs ordered as in `matrix`."""
        if not self.convolution:
            return x.reshape(-1, x.shape[-1])[picked][None]
        k = list(self.weight.shape[2:])
        stride, padding, dilation = (_each(self.op.arg(a, d), len(k)) for a, d in _GEOMETRY)
        padded = F.pad(x, [p for n in reversed(padding) for p in (n, n)])
        size = padded.shape[2:]
        out = [(n - d * (j - 1) - 1) // s + 1 for n, j, s, d in zip(size, k, stride, dilation)]
        where = torch.zeros(1, 1, dtype=torch.int64, device=x.device)
        at = torch.unravel_index(picked, out)
        taps = torch.tensor(list(itertools.product(*map(range, k))), device=x.device)  # [k, dims]
        for d, n in enumerate(size):
            where = where * n + (at[d] * stride[d])[:, None] + taps[:, d] * dilation[d]  # [picked, k]
        seen = padded.flatten(2)[:, :, where.reshape(-1)]  # [n, c, picked * k]
        n, c = x.shape[:2]
        grouped = seen.reshape(n, self.groups, c // self.groups, *where.shape)
        return grouped.permute(1, 0, 3, 2, 4).reshape(self.groups, n * len(picked), -1)

    def targets(self, y: Tensor, picked: Tensor) -> Tensor:
        """The values at the picked positions of a tensor of the output's shape: [rows, outputs]."""
        if not self.convolution:
            return y.reshape(-1, y.shape[-1])[picked]
        return y.flatten(2)[:, :, picked].transpose(1, 2).reshape(-1, y.shape[1])

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight as [groups, outputs of a group, inputs of a group]."""
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)


_SPATIAL = ("linear", "conv1d", "conv2d", "conv3d")
_GEOMETRY = (("stride", 1), ("padding", 0), ("dilation", 1))


def _each(value: Any, n: int) -> list[int]:
    value = list(value) if isinstance(value, list | tuple) else [value]
    return [int(v) for v in (value if len(value) == n else value * n)]
