"""The protocol of weight patterns: which sets of weights may be live together, and the best such set.

A pattern sees one weight matrix as scores [out, in, *kernel]. Scores are at least 0, larger = keep; `inf` says that a
weight stays wherever the pattern allows, `-inf` that it is taken last. Masks are bool, True = live; the number of live
weights is exact, also where scores tie.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sartor.errors import BadInput
from sartor.registry import Registry
from sartor.types.weights import Pattern

Shape = tuple[int, ...]
_FORCED = 1e12  # stands for an infinite score in sums


class Sizes(NamedTuple):
    """The counts of live weights that a pattern can have in a matrix: least, least + step, ..., most."""

    least: int
    most: int
    step: int

    def at_most(self, live: int) -> int:
        """The largest possible count that is not above `live`; `least` if there is none."""
        return self.least + max(0, min(live, self.most) - self.least) // self.step * self.step


class Projection(Protocol):
    """What a pattern means for one weight matrix."""

    def misfit(self, shape: Shape) -> str | None:
        """Why matrices of this shape cannot have the pattern, as the end of a sentence; None: they can."""

    def sizes(self, shape: Shape) -> Sizes:
        """The possible counts of live weights."""

    def project(self, scores: Tensor, live: int) -> Tensor:
        """The mask of this pattern with the largest scores, of exactly `live` weights, one of `sizes`."""

    def holds(self, mask: Tensor) -> bool:
        """Whether a mask has the pattern."""

    def norms_squared(self, weight: Tensor) -> Tensor:
        """For every weight [out, in, *kernel], the squared norm of all weights that go when it goes."""


PATTERNS: Registry[Callable[[Any], Projection]] = Registry("weight pattern")


def projection_of(pattern: Pattern) -> Projection:
    """The meaning of a pattern that a recipe names."""
    return PATTERNS[pattern.kind].value(pattern)


def project(pattern: Projection, scores: Tensor, live: int) -> Tensor:
    """The best mask of exactly this many live weights, on the way to a pattern or in it.

    Up to the most that the pattern allows, the mask has the pattern. Above it (a network that becomes sparse step by
    step), the mask is one of the pattern, and the weights with the largest scores beside it.

    Args:
        pattern: what the mask has to be.
        scores: [out, in, *kernel]; at least 0, `inf` or `-inf`, see the module.
        live: weights that stay; inside the pattern one of `pattern.sizes`.

    Returns:
        bool, the shape of `scores`, with exactly `live` True.

    Raises:
        BadInput: a score is NaN, `live` is none of the possible counts, or the shape does not fit.
    """
    shape = tuple(scores.shape)
    reason = pattern.misfit(shape)
    if reason is not None:
        raise BadInput(f"weight pattern: a matrix {list(shape)} cannot have it: {reason}")
    if bool(torch.isnan(scores).any()):
        raise BadInput("weight pattern: expected scores that are numbers; got NaN. Did training diverge?")
    sizes = pattern.sizes(shape)
    if live > sizes.most:
        inside = pattern.project(scores, sizes.most)
        beside = (~inside).flatten().nonzero().flatten()
        best = beside[scores.flatten()[beside].topk(live - sizes.most, sorted=False).indices]
        return inside.flatten().index_fill(0, best, True).view(shape)
    if live != sizes.at_most(live) or live < sizes.least:
        raise BadInput(
            f"weight pattern: a matrix {list(shape)} can have {sizes.least} to {sizes.most} live weights in steps of "
            f"{sizes.step}; got {live}"
        )
    return pattern.project(scores, live)


def top_mask(scores: Tensor, count: int) -> Tensor:
    """A mask of exactly the `count` largest scores, whatever ties there are.

    >>> top_mask(torch.tensor([0.0, 0.0, 0.0, 1.0]), 2).sum()
    tensor(2)
    """
    flat = scores.reshape(-1)
    mask = torch.zeros_like(flat, dtype=torch.bool)
    return mask.index_fill(0, flat.topk(count, sorted=False).indices, True).view(scores.shape)


def squares(scores: Tensor) -> Tensor:
    """Scores squared in float64, to be summed over the parts of a pattern: infinite ones large, -inf as zero."""
    return scores.double().clamp(0.0, _FORCED).square()


__all__ = [
    "PATTERNS", "Projection", "Shape", "Sizes", "project", "projection_of", "squares", "top_mask",
]  # fmt: skip
