"""Kernel patterns: four weights of every live 3 x 3 kernel in one of eight shapes, equally many kernels a filter."""

from __future__ import annotations

import torch
from torch import Tensor

from sartor.sparse.patterns.projection import PATTERNS, Shape, Sizes, squares
from sartor.types.weights import KernelPatterns

_CORNERS = ((0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8))  # squares with the centre
_TEES = ((1, 3, 4, 5), (1, 4, 5, 7), (3, 4, 5, 7), (1, 3, 4, 7))  # the centre and three of its neighbours
LIBRARY = (*_CORNERS, *_TEES)
"""Positions of the live weights of each shape, row by row in the 3 x 3 kernel."""


@PATTERNS.register(
    "kernel-patterns",
    source="Ma et al. 2020 (PCONV), arXiv:1909.05073, and Yuan et al. 2021 (MEST), arXiv:2110.14032",
    summary="Four of nine weights of a 3 x 3 kernel in one of eight shapes, equally many kernels a filter",
)
class KernelPattern:
    """The shape that keeps the largest norm in every kernel, then the kernels of every filter with the largest norm.

    The papers draw their eight shapes and do not list them. These are all shapes of four weights that hold the centre
    and are a square or a T: every kernel keeps its centre. A share of weights s is a share of kernels 9 s / 4.
    """

    def __init__(self, how: KernelPatterns):
        self.how = how

    def misfit(self, shape: Shape) -> str | None:
        """Kernels have to be 3 x 3."""
        return None if shape[2:] == (3, 3) else f"its kernel is {' x '.join(map(str, shape[2:])) or '1'}, not 3 x 3"

    def sizes(self, shape: Shape) -> Sizes:
        """From one kernel a filter to all of them, four weights each."""
        return Sizes(4 * shape[0], 4 * shape[0] * shape[1], 4 * shape[0])

    def project(self, scores: Tensor, live: int) -> Tensor:
        """The best shape in every kernel, and the best kernels of every filter."""
        shapes = self._shapes(scores)
        norm, shape = (squares(scores).flatten(2) @ shapes.double().T).max(2)
        kernels = norm.topk(live // (4 * scores.shape[0]), dim=1, sorted=False).indices
        chosen = torch.zeros_like(norm, dtype=torch.bool).scatter_(1, kernels, True)
        return (shapes[shape] & chosen[..., None]).view(scores.shape)

    def holds(self, mask: Tensor) -> bool:
        """Whether every kernel is one of the shapes or empty, and every filter has equally many kernels."""
        if self.misfit(tuple(mask.shape)) is not None:
            return False
        kernels = mask.flatten(2)
        known = (kernels[:, :, None] == self._shapes(mask)).all(3).any(2)
        filled = kernels.any(2).sum(1)
        return bool((known | ~kernels.any(2)).all()) and bool((filled == filled[0]).all())

    def norms_squared(self, weight: Tensor) -> Tensor:
        """Weights go one by one."""
        return weight.square()

    @staticmethod
    def _shapes(like: Tensor) -> Tensor:
        """bool [shapes, 9] on the device of a tensor."""
        places = torch.tensor(LIBRARY, device=like.device)
        return torch.zeros(len(LIBRARY), 9, dtype=torch.bool, device=like.device).scatter_(1, places, True)
