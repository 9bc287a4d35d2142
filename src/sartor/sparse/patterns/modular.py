"""Modular connectivity: dense inside groups of units, sparse across them."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from sartor.sparse.patterns.projection import PATTERNS, Shape, Sizes, top_mask
from sartor.types.weights import Modular


@PATTERNS.register(
    "modular",
    source="G2GNet, 2025: ensemble-to-ensemble connectivity",
    summary="Dense in groups of units, sparse across",
)
class ModularPattern:
    """All weights between units of one group are live, and the weights across groups with the largest scores.

    With random scores the weights across groups are drawn as the paper draws them, except that their number is exact
    instead of the mean of a Bernoulli distribution: with 8 groups, a share of 0.15 across is 25.6 % of all weights.
    """

    def __init__(self, how: Modular):
        self.how = how

    def misfit(self, shape: Shape) -> str | None:
        """Every group has a unit on both sides, and there is no kernel: the groups are of units of dense layers."""
        if len(shape) > 2:
            return "it has a kernel; groups are of the units of dense layers"
        few = min(shape)
        return None if few >= self.how.groups else f"{few} units are fewer than {self.how.groups} groups"

    def sizes(self, shape: Shape) -> Sizes:
        """From the weights inside groups to all weights."""
        return Sizes(int(self._inside(shape).sum()), math.prod(shape), 1)

    def project(self, scores: Tensor, live: int) -> Tensor:
        """All inside groups, and the largest scores across them."""
        return top_mask(scores.masked_fill(self._inside(tuple(scores.shape)).to(scores.device), torch.inf), live)

    def holds(self, mask: Tensor) -> bool:
        """Whether everything inside groups is live."""
        fits = self.misfit(tuple(mask.shape)) is None
        return fits and bool(mask[self._inside(tuple(mask.shape)).to(mask.device)].all())

    def norms_squared(self, weight: Tensor) -> Tensor:
        """Weights go one by one."""
        return weight.square()

    def _inside(self, shape: Shape) -> Tensor:
        """bool [out, in]: whether output and input are of one group."""
        return self._group(shape[0], out=True)[:, None] == self._group(shape[1], out=False)[None, :]

    def _group(self, units: int, *, out: bool) -> Tensor:
        """The group of every unit, int64 [units]; all groups have equally many units, up to one."""
        index = torch.arange(units)
        if self.how.grouping == "mixer" and out:
            return index % self.how.groups
        group = index * self.how.groups // units
        if self.how.grouping == "random":
            return group[torch.randperm(units, generator=Generator().manual_seed(2 * self.how.seed + out))]
        return group
