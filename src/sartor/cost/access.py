"""Memory accesses of single layers: every input, output and weight counted once.

Source: Ma et al. 2018 (ShuffleNetV2), arXiv:1807.11164, section 2; with kernels of any size and grouped.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from sartor.structure.calls import Op, Value


@dataclass(frozen=True)
class LayerShape:
    """One convolution or linear layer, for one sample of the traced example."""

    inputs: int  # channels or features
    outputs: int
    taps: int = 1  # of the kernel
    groups: int = 1
    read: int = 1  # positions of the input
    written: int = 1  # positions of the output

    @property
    def macs(self) -> int:
        """Multiply-accumulates.

        >>> LayerShape(8, 16, taps=9, groups=2, read=64, written=16).macs
        9216
        """
        return self.taps * self.inputs * self.outputs * self.written // self.groups

    @property
    def params(self) -> int:
        """Weights, without a bias."""
        return self.taps * self.inputs * self.outputs // self.groups

    @property
    def activations(self) -> int:
        """Numbers read and written, apart from weights."""
        return self.inputs * self.read + self.outputs * self.written

    @property
    def access(self) -> int:
        """Memory accesses."""
        return self.activations + self.params

    @property
    def intensity(self) -> float:
        """Multiply-accumulates for each memory access."""
        return self.macs / self.access

    @property
    def least_access(self) -> float:
        """The least access of any two widths with the same MACs, kernel, groups and positions.

        Of a pointwise layer without groups, 2 sqrt(hw B) + B / hw for B MACs: equal widths reach it (guideline G1).
        """
        return 2 * math.sqrt(self.inputs * self.read * self.outputs * self.written) + self.params

    def utilisation(self, rows: int, columns: int) -> float:
        """Share of an array of `rows` x `columns` multipliers that has work, in (0, 1].

        Weights lie still: the rows hold the inputs and taps of one group, the columns its outputs; what is left over in
        the last tile is idle. A depthwise layer fills one column.
        """
        deep = self.inputs // self.groups * self.taps
        wide = self.outputs // self.groups
        tiles = math.ceil(deep / rows) * math.ceil(wide / columns)
        return deep * wide / (tiles * rows * columns)

    @property
    def depthwise(self) -> bool:
        """Whether every input has a group of its own."""
        return 1 < self.groups == self.inputs


def layer_shape(op: Op) -> LayerShape | None:
    """The shape of a convolution or linear layer as it was traced; None: another operator, or a batch of another size.

    Args:
        op: recorded with one sample.
    """
    if op.kind not in ("conv", "linear") or len(op.args) < 2 or not isinstance(op.args[1], Value):
        return None
    x, weight, out = op.args[0], op.args[1], op.outputs[0]
    if op.kind == "linear":
        if weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
            return None
        positions = math.prod(x.shape[:-1])
        return LayerShape(weight.shape[1], weight.shape[0], read=positions, written=positions)
    spatial = weight.ndim - 2
    batch = math.prod(x.shape[: x.ndim - spatial - 1])
    if batch != 1:
        return None
    channels = x.ndim - spatial - 1
    return LayerShape(
        x.shape[channels], out.shape[channels], math.prod(weight.shape[2:]), int(op.arg("groups", 1)),
        math.prod(x.shape[channels + 1 :]), math.prod(out.shape[channels + 1 :]),
    )  # fmt: skip
