"""Global allocation: one ranking of all units of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sartor.allocate.bundles import RoundTo, bundles
from sartor.allocate.exact import cut_until_met
from sartor.allocate.registry import ALLOCATORS, Cap, Keep
from sartor.types import Counts, Scores


@ALLOCATORS.register("global", source="Liu et al. 2017, arXiv:1708.06519 (one threshold for the whole network)")
def global_(
    scores: Scores,
    limits: Sequence[Cap | tuple[Callable[[Counts], float], float]],
    units: Mapping[str, int],
    *,
    ties: Sequence[Sequence[str]] = (),
    floor: float = 0.1,
    round_to: RoundTo = 1,
) -> Keep:
    """The units with the lowest scores are removed, whatever their group.

    Scores are compared across groups without normalisation; `importance.score` normalises them. See `Allocator` for
    arguments, result and errors. Among equal scores, units of the group that lost the smallest share go first.
    """
    steps = bundles(scores, units, ties, floor, round_to)
    return cut_until_met(sorted(steps, key=lambda b: (b.score, b.depth)), limits, scores)
