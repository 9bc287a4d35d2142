"""N:M: the same number of live weights among every M consecutive inputs."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sartor.sparse.patterns.projection import PATTERNS, Shape, Sizes
from sartor.types.weights import NM


@PATTERNS.register("n:m", source="Mishra et al. 2021, arXiv:2104.08378", summary="N of every M consecutive inputs")
class NMPattern:
    """N live weights among M consecutive inputs, at every output and kernel position.

    The inputs of one kernel position lie beside each other, as in the layout [out, kernel, in] of sparse tensor cores,
    so no group of M crosses two positions.
    """

    def __init__(self, how: NM):
        self.how = how

    def misfit(self, shape: Shape) -> str | None:
        """Inputs have to be a multiple of M."""
        return None if shape[1] % self.how.m == 0 else f"{shape[1]} inputs are no multiple of {self.how.m}"

    def sizes(self, shape: Shape) -> Sizes:
        """One count: N of M."""
        live = math.prod(shape) // self.how.m * self.how.n
        return Sizes(live, live, 1)

    def project(self, scores: Tensor, live: int) -> Tensor:
        """The N largest scores of every M."""
        groups = _groups(scores, self.how.m)
        best = groups.topk(self.how.n, dim=2, sorted=False).indices
        return torch.zeros_like(groups, dtype=torch.bool).scatter_(2, best, True).reshape(scores.shape)

    def holds(self, mask: Tensor) -> bool:
        """Whether every M inputs have N live weights."""
        fits = self.misfit(tuple(mask.shape)) is None
        return fits and bool((_groups(mask, self.how.m).sum(2) == self.how.n).all())

    def norms_squared(self, weight: Tensor) -> Tensor:
        """Weights go one by one."""
        return weight.square()


def _groups(t: Tensor, m: int) -> Tensor:
    """[out, in / m, m, kernel positions]."""
    return t.reshape(t.shape[0], t.shape[1] // m, m, -1)
