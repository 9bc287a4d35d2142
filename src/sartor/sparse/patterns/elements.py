"""Single weights in any place."""

from __future__ import annotations

import math

from torch import Tensor

from sartor.sparse.patterns.projection import PATTERNS, Shape, Sizes, top_mask
from sartor.types.weights import Elements


@PATTERNS.register("elements", source="Han et al. 2015, arXiv:1506.02626", summary="Single weights, in any place")
class ElementPattern:
    """The weights with the largest scores."""

    def __init__(self, how: Elements):
        self.how = how

    def misfit(self, shape: Shape) -> str | None:
        """Every matrix fits."""
        return None

    def sizes(self, shape: Shape) -> Sizes:
        """At least one weight stays, so that the layer remains connected."""
        return Sizes(1, math.prod(shape), 1)

    def project(self, scores: Tensor, live: int) -> Tensor:
        """The largest scores."""
        return top_mask(scores, live)

    def holds(self, mask: Tensor) -> bool:
        """Every mask with a live weight."""
        return bool(mask.any())

    def norms_squared(self, weight: Tensor) -> Tensor:
        """Weights go one by one."""
        return weight.square()
