"""Sizes that follow from other sizes: formulas that are fitted to recordings of one forward at several input sizes.

A number among the arguments of an operator that differs between the recordings is expressed by sizes of tensors that
the program already holds:

    (times * product of sizes + plus) // (by * product of other sizes)

The constants come from the first recordings. A formula is taken only if it gives the recorded number in all of them,
the last included, which has no part in finding it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import combinations, combinations_with_replacement
from typing import Any

Place = tuple[int, int]  # slot of a tensor in the program, dimension
Sizes = tuple[int, ...]  # one number in every recording
_DIVISORS = (*range(2, 9), 12, 14, 16, 24, 32, 64)  # of a size that is rounded down or up
_MOST = 40  # sizes that are combined with each other, at most


class SizeTable:
    """The sizes of the tensors that a program holds so far, in every recording."""

    def __init__(self) -> None:
        self._inputs: dict[Sizes, Place] = {}
        self._others: dict[Sizes, Place] = {}

    def add(self, sizes: Sizes, place: Place, *, is_input: bool = False) -> None:
        """Enter one dimension of a tensor. Dimensions that are the same in every recording are no use."""
        if len(set(sizes)) == 1:
            return
        if is_input:
            self._inputs.setdefault(sizes, place)
        else:
            self._others[sizes] = place  # the latest: an earlier tensor would be kept alive for its size

    def input_with(self, sizes: Sizes) -> Place | None:
        """The first dimension of an input that had these sizes."""
        return self._inputs.get(sizes)

    def formula(self, numbers: Sizes) -> dict[str, Any] | None:
        """The simplest formula that gives these numbers, as JSON; None if there is none. Inputs are preferred."""
        known = {**self._inputs, **{s: p for s, p in reversed(self._others.items()) if s not in self._inputs}}
        if numbers in known:
            return {"of": [list(known[numbers])]}
        table = list(known.items())
        for search in (_multiple, _affine, _rounded):
            for sizes, place in table:
                constants = search(sizes, numbers)
                if constants is not None:
                    return {"of": [list(place)], **constants}
        return next(_combined(table[:_MOST], numbers), None)


def _multiple(sizes: Sizes, numbers: Sizes) -> dict[str, int] | None:
    """numbers = sizes * a constant fraction."""
    if not all(sizes):
        return None
    ratio = Fraction(numbers[0], sizes[0])
    if ratio <= 0 or any(Fraction(n, s) != ratio for n, s in zip(numbers, sizes)):
        return None
    return _named(times=ratio.numerator, by=ratio.denominator)


def _affine(sizes: Sizes, numbers: Sizes) -> dict[str, int] | None:
    """numbers = sizes * a constant + another one."""
    i = next(i for i, s in enumerate(sizes) if s != sizes[0])
    slope = Fraction(numbers[i] - numbers[0], sizes[i] - sizes[0])
    if slope.denominator != 1 or not slope:
        return None
    times, plus = int(slope), numbers[0] - int(slope) * sizes[0]
    return _named(times=times, plus=plus) if _gives(sizes, numbers, times, plus, 1) else None


def _rounded(sizes: Sizes, numbers: Sizes) -> dict[str, int] | None:
    """numbers = sizes divided by a constant and rounded, as strides and pooling do."""
    for by in _DIVISORS:
        low = max(n * by - s for s, n in zip(sizes, numbers))  # every n: n * by <= s + plus < (n + 1) * by
        high = min((n + 1) * by - 1 - s for s, n in zip(sizes, numbers))
        if low <= high:
            plus = 0 if low <= 0 <= high else low if low > 0 else high
            return _named(plus=plus, by=by)
    return None


def _gives(sizes: Sizes, numbers: Sizes, times: int, plus: int, by: int) -> bool:
    return all((times * s + plus) // by == n for s, n in zip(sizes, numbers))


def _combined(table: Sequence[tuple[Sizes, Place]], numbers: Sizes) -> Iterator[dict[str, Any]]:
    """Products of two or three sizes, and quotients of two, times a constant fraction."""
    for count in (2, 3):
        for chosen in combinations_with_replacement(table[: _MOST if count == 2 else 12], count):
            products = tuple(math.prod(each) for each in zip(*(s for s, _ in chosen)))
            constants = _multiple(products, numbers)
            if constants is not None:
                yield {"of": [list(p) for _, p in chosen], **constants}
    for one, other in combinations(table, 2):
        for (top, place), (bottom, below) in ((one, other), (other, one)):
            if not all(bottom):
                continue
            ratio = Fraction(numbers[0] * bottom[0], top[0] or 1)
            if ratio > 0 and all(Fraction(n * b) == ratio * t for n, b, t in zip(numbers, bottom, top)):
                constants = _named(times=ratio.numerator, by=ratio.denominator)
                yield {"of": [list(place)], "over": [list(below)], **constants}


def _named(*, times: int = 1, plus: int = 0, by: int = 1) -> dict[str, int]:
    constants = {"times": (times, 1), "plus": (plus, 0), "by": (by, 1)}
    return {name: value for name, (value, neutral) in constants.items() if value != neutral}


def evaluated(formula: Mapping[str, Any], size: Callable[[int, int], int]) -> int:
    """The number that a formula gives; `size(slot, dim)` is a size now. Sizes may be symbols of torch.export.

    >>> evaluated({"of": [[0, 1]], "plus": 1, "by": 2}, lambda slot, dim: 7)
    4
    """
    top: Any = None
    for slot, d in formula["of"]:
        top = size(slot, d) if top is None else top * size(slot, d)
    if "times" in formula:
        top = top * formula["times"]
    if "plus" in formula:
        top = top + formula["plus"]
    bottom: Any = formula.get("by", 1)
    for slot, d in formula.get("over", ()):
        bottom = size(slot, d) * bottom
    number: int = top if type(bottom) is int and bottom == 1 else top // bottom
    return number


__all__ = ["SizeTable", "evaluated"]
