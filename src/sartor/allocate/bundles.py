"""Bundles: the smallest steps by which groups can shrink. Tied groups shrink together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from sartor.errors import BadInput
from sartor.types import Scores

RoundTo = int | None  # kept counts are multiples of it; None: of `alignment`


@dataclass(frozen=True)
class Bundle:
    """One step of groups that shrink together: each goes from `before` to `after` kept units."""

    groups: tuple[str, ...]
    before: int
    after: int
    score: float  # mean score of the units it removes; does not decrease from one step of a group to the next
    depth: float  # share of the group that is removed halfway through the step


def ladder(units: int, floor: float, round_to: int) -> list[int]:
    """Counts that a group may keep, from all units down to its floor.

    >>> ladder(30, 0.2, 8), ladder(6, 0.0, 8), ladder(3, 0.0, 1)
    ([30, 24, 16, 8], [6], [3, 2, 1])
    """
    least = max(1, math.ceil(floor * units - 1e-9))
    top = (units - 1) // round_to * round_to
    return [units, *(k for k in range(top, 0, -round_to) if k >= least)]


def alignment(units: int) -> int:
    """The number of which a cut group of this size keeps multiples, where nothing else is asked for.

    Kernels work on whole vectors. On ONNX Runtime, a convolution whose number of channels 4 does not divide leaves
    the fast path: an inverted residual block of 480 channels takes about five times as long with 479 (`sartor bench
    alignment`). Other runtimes work on 8 or 16 channels at once. In a small group, steps of 8 are a large share.

    >>> [alignment(n) for n in (10, 16, 24, 64, 1152)]
    [1, 4, 4, 8, 8]
    """
    return 1 if units < 16 else 4 if units < 64 else 8


def step_of(round_to: RoundTo, units: int) -> int:
    """The number of which a cut group of this size keeps multiples.

    Raises:
        BadInput: it is less than 1.
    """
    if round_to is None:
        return alignment(units)
    if round_to < 1:
        raise BadInput(f"round_to: expected at least 1; got {round_to}")
    return round_to


def bundles(
    scores: Scores, units: Mapping[str, int], ties: Sequence[Sequence[str]], floor: float, round_to: RoundTo
) -> list[Bundle]:
    """Every step of every group; those of one group in order.

    Raises:
        BadInput: scores and units do not fit together, or an option is out of range.
    """
    if not 0 <= floor < 1:
        raise BadInput(f"floor: expected a share in [0, 1); got {floor}")
    ordered = {name: _ascending(scores, name, n) for name, n in units.items()}
    steps: list[Bundle] = []
    for together in tied_classes(units, ties):
        n = units[together[0]]
        counts = ladder(n, floor, step_of(round_to, n))
        highest = -math.inf
        for before, after in itertools.pairwise(counts):
            removed = torch.stack([ordered[g][n - before : n - after] for g in together])
            highest = max(highest, float(removed.mean()))  # the mean of equal numbers may differ by a rounding error
            steps.append(Bundle(together, before, after, highest, 1 - (before + after) / (2 * n)))
    return steps


def tied_classes(units: Mapping[str, int], ties: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Groups that shrink together; a class with a group that is not in `units` is left out.

    Raises:
        BadInput: tied groups have different numbers of units.

    >>> tied_classes({"a": 4, "b": 4, "c": 2}, [("b", "a"), ("c", "d")])
    [('a', 'b')]
    """
    parent = {g: g for g in [*units, *(g for tie in ties for g in tie)]}

    def root(g: str) -> str:
        while parent[g] != g:
            g = parent[g]
        return g

    for tie in ties:
        for g in tie[1:]:
            parent[root(g)] = root(tie[0])
    classes: dict[str, list[str]] = {}
    for g in parent:
        classes.setdefault(root(g), []).append(g)
    complete = [tuple(c) for c in classes.values() if all(g in units for g in c)]
    for c in complete:
        if len({units[g] for g in c}) > 1:
            sizes = ", ".join(f"{g} {units[g]}" for g in c)
            raise BadInput(f"tied groups must keep equal counts, so they must have equal sizes; got {sizes}")
    return complete


def floor_counts(
    units: Mapping[str, int], ties: Sequence[Sequence[str]] = (), floor: float = 0.1, round_to: RoundTo = 1
) -> dict[str, int]:
    """Kept units by group of the smallest network allowed.

    >>> floor_counts({"a": 30, "b": 6}, floor=0.2, round_to=8)
    {'a': 8, 'b': 6}
    """
    classes = tied_classes(units, ties)
    return {**units, **{g: ladder(units[g], floor, step_of(round_to, units[g]))[-1] for c in classes for g in c}}


def kept(scores: Scores, counts: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Sorted indices of the `counts[group]` units with the highest scores; among equal scores the first stay.

    >>> kept({"a": torch.tensor([1.0, 3.0, 2.0])}, {"a": 2})
    {'a': (1, 2)}
    """
    return {
        g: tuple(sorted(torch.argsort(scores[g], descending=True, stable=True)[:k].tolist())) for g, k in counts.items()
    }


def _ascending(scores: Scores, name: str, units: int) -> torch.Tensor:
    if name not in scores:
        raise BadInput(f"allocation: group {name!r} has no scores")
    s = scores[name]
    if s.shape != (units,):
        raise BadInput(f"allocation, scores of group {name!r}: expected shape ({units},); got {tuple(s.shape)}")
    if not torch.isfinite(s).all():
        raise BadInput(f"allocation, scores of group {name!r}: expected finite numbers")
    return s.double().sort().values
