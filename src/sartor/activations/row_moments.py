"""First and second moments of what layers read, from one pass over calibration inputs."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.follow import replay
from sartor.activations.patches import Reading
from sartor.borrow import borrowed
from sartor.structure import Graph
from sartor.structure.calls import Op
from sartor.structure.example import Example


@dataclass(frozen=True)
class RowMoments:
    """Of the rows that a convolution or linear layer reads, in double precision; see `Reading.rows`."""

    mean: Tensor  # [groups, inputs]
    covariance: Tensor  # [groups, inputs, inputs]

    @property
    def second(self) -> Tensor:
        """The Gram matrix: mean products, not centred, [groups, inputs, inputs]."""
        return self.covariance + self.mean[:, :, None] * self.mean[:, None, :]


def layer_moments(
    graph: Graph,
    model: nn.Module,
    batches: Sequence[Example],
    layers: Container[int],
    *,
    rows: int,
    generator: torch.Generator,
) -> dict[int, RowMoments]:
    """The moments of every layer that the batches reach.

    Args:
        graph: of the model.
        model: borrowed.
        batches: inputs, on the model's device.
        layers: numbers of operators that `Reading.of` knows.
        rows: positions read for one layer, about.
        generator: draws them.
    """
    sums: dict[int, tuple[Any, Any, Any, int]] = {}
    each = -(-rows // max(1, len(batches)))

    def see(op: Op, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if op.index not in layers:
            return
        reading = Reading.of(op)
        assert reading is not None
        channels = int(op.args[0].shape[1 if op.kind == "conv" else -1])
        if args[0].shape[reading.channel(args[0].dim())] != channels:
            return
        x = reading.rows(args[0], reading.pick(out, each, generator)).float()
        if op.index not in sums:
            zeros = x.new_zeros(x.shape[0], x.shape[2], x.shape[2], dtype=torch.float64)
            sums[op.index] = (x.mean(1), zeros, zeros.new_zeros(x.shape[0], x.shape[2]), 0)
        shift, square, total, n = sums[op.index]
        x = x - shift[:, None]  # near the mean, squares lose no digits
        square += x.transpose(1, 2) @ x
        total += x.sum(1, dtype=torch.float64)
        sums[op.index] = (shift, square, total, n + x.shape[1])

    with borrowed(model):
        for b in batches:
            replay(graph, model, b, see)
    moments = {}
    for i, (shift, square, total, n) in sums.items():
        mean = total / n
        covariance = (square / n).sub_(mean[:, :, None] * mean[:, None, :])
        moments[i] = RowMoments(mean + shift, covariance)
    return moments


__all__ = ["RowMoments", "layer_moments"]
