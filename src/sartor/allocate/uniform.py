"""Uniform allocation: every group loses the same share of its units."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sartor.allocate.bundles import RoundTo, bundles
from sartor.allocate.exact import cut_until_met
from sartor.allocate.registry import ALLOCATORS, Cap, Keep
from sartor.types import Counts, Scores


@ALLOCATORS.register("uniform", source="Li et al. 2017, arXiv:1608.08710 (equal ratios), baseline")
def uniform(
    scores: Scores,
    limits: Sequence[Cap | tuple[Callable[[Counts], float], float]],
    units: Mapping[str, int],
    *,
    ties: Sequence[Sequence[str]] = (),
    floor: float = 0.1,
    round_to: RoundTo = 1,
) -> Keep:
    """Every group loses the same share of its units, those with the lowest scores.

    The shares are equal up to half a step of a group, and up to the units that still fit under the caps at the end:
    these are put back first into the groups that lost the largest share. See `Allocator` for arguments, result and
    errors.
    """
    steps = bundles(scores, units, ties, floor, round_to)
    return cut_until_met(sorted(steps, key=lambda b: (b.depth, b.score)), limits, scores)
