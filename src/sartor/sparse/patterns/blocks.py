"""Blocks of consecutive outputs and inputs that are live as a whole."""

from __future__ import annotations

import math

from torch import Tensor

from sartor.sparse.patterns.projection import PATTERNS, Shape, Sizes, squares, top_mask
from sartor.types.weights import Blocks


@PATTERNS.register(
    "blocks", source="Yuan et al. 2021 (MEST), arXiv:2110.14032", summary="Blocks of outputs and inputs, whole or not"
)
class BlockPattern:
    """Blocks with the largest L2 norm of their scores; MEST's are four outputs at one input and kernel position."""

    def __init__(self, how: Blocks):
        self.how = how

    def misfit(self, shape: Shape) -> str | None:
        """Outputs and inputs have to be multiples of the block's sides."""
        rows, columns = self.how.rows, self.how.columns
        if shape[0] % rows:
            return f"{shape[0]} outputs are no multiple of {rows}"
        return f"{shape[1]} inputs are no multiple of {columns}" if shape[1] % columns else None

    def sizes(self, shape: Shape) -> Sizes:
        """Multiples of a block, at least one."""
        block = self.how.rows * self.how.columns
        return Sizes(block, math.prod(shape), block)

    def project(self, scores: Tensor, live: int) -> Tensor:
        """The blocks with the largest sum of squared scores."""
        block = self.how.rows * self.how.columns
        chosen = top_mask(self._blocks(squares(scores)).sum((1, 3)), live // block)
        return chosen[:, None, :, None].expand_as(self._blocks(scores)).reshape(scores.shape)

    def holds(self, mask: Tensor) -> bool:
        """Whether every block is live or dead as a whole."""
        if self.misfit(tuple(mask.shape)) is not None:
            return False
        blocks = self._blocks(mask)
        return bool((blocks.amax((1, 3)) == blocks.amin((1, 3))).all())

    def norms_squared(self, weight: Tensor) -> Tensor:
        """A block goes as a whole."""
        blocks = self._blocks(weight.square())
        return blocks.sum((1, 3), keepdim=True).expand_as(blocks).reshape(weight.shape)

    def _blocks(self, t: Tensor) -> Tensor:
        """[row of blocks, rows, column of blocks, columns, kernel positions]."""
        rows, columns = self.how.rows, self.how.columns
        return t.reshape(t.shape[0] // rows, rows, t.shape[1] // columns, columns, -1)
