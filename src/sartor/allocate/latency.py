"""A search for the largest share of the MACs that meets a limit on measured latency."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sartor.errors import BadInput, BudgetNotMet, NothingToDo

A = TypeVar("A")


@dataclass(frozen=True)
class Step:
    """One round of the search."""

    macs_share: float  # of the original's MACs, or of another cost that grows with latency, such as predicted latency
    ratio: float  # measured latency, as a share of the original's
    predicted: float | None = None  # the ratio predicted by latency tables, if they were used
    noisy: str = ""  # how the machine was disturbed during the measurement; "": it was not


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Options of `fit_latency`."""

    tolerance: float = 0.05  # a ratio in [limit * (1 - tolerance), limit] ends the search; in (0, 1)
    rounds: int = 6  # measurements at most, >= 1; one more at the lowest share if none of them met the limit
    lowest: float = 0.0  # the least share that `plan_at` can reach, if known; in [0, 1)
    first: float | None = None  # the share measured first, in (0, 1); None: the limit itself

    def __post_init__(self) -> None:
        if not (0 < self.tolerance < 1 and self.rounds >= 1 and 0 <= self.lowest < 1):
            raise BadInput(
                "latency search: expected tolerance in (0, 1), rounds >= 1 and lowest in [0, 1); "
                f"got {self.tolerance}, {self.rounds} and {self.lowest}"
            )
        if self.first is not None and not 0 < self.first < 1:
            raise BadInput(f"latency search, 'first': expected a share in (0, 1); got {self.first}")


def fit_latency(
    plan_at: Callable[[float], A],
    measure: Callable[[A], float],
    limit: float,
    options: SearchOptions = SearchOptions(),
) -> tuple[A, tuple[Step, ...]]:
    """Find the largest network whose measured latency meets a limit.

    Latency decreases with MACs, but in steps and with noise, so every round measures a network. The next share of the
    MACs is interpolated between the largest share that was fast enough and the smallest that was too slow, until the
    ratio lies in [limit * (1 - tolerance), limit]. If no share gives such a ratio (latency jumps over the interval),
    the largest network measured within the limit is returned.

    Args:
        plan_at: share of the original's MACs in (0, 1) -> what to measure. May raise BudgetNotMet if the share is too
            low.
        measure: the latency of what `plan_at` returned, as a share of the original's; called once a round.
        limit: largest ratio allowed, in (0, 1).
        options: of the search.

    Returns:
        (the largest network measured within the limit, the rounds in order).

    Raises:
        NothingToDo: limit >= 1.
        BudgetNotMet: even the smallest network measured is too slow; the message says how slow, `plan` is the
            fastest one measured. Or what `plan_at` raised, if it returned nothing at any share.
        BadInput: the limit is not positive, or `measure` returned no positive number.
    """
    if not (math.isfinite(limit) and limit > 0):
        raise BadInput(f"latency limit: expected a share of the original above 0; got {limit}")
    if limit >= 1:
        raise NothingToDo(f"the original already meets a latency limit of {100 * limit:.4g} % of itself")
    search = _Search(limit, options)
    fastest: tuple[float, A] | None = None  # (ratio, network)
    best: tuple[float, A] | None = None  # (share, network) of the largest share within the limit
    for number in range(options.rounds + 1):
        if number == options.rounds and (best or search.floor_measured):
            break
        built = _build(plan_at, search, at_floor=number == options.rounds)
        if built is None:
            break
        share, network = built
        ratio = float(measure(network))
        if not (math.isfinite(ratio) and ratio > 0):
            raise BadInput(f"measured latency ratio: expected a positive number; got {ratio}")
        search.trail.append(Step(share, ratio))
        if fastest is None or ratio < fastest[0]:
            fastest = (ratio, network)
        if ratio <= limit and (best is None or share > best[0]):
            best = (share, network)
        if search.done:
            break
    if best:
        return best[1], tuple(search.trail)
    assert fastest
    raise BudgetNotMet(
        f"latency cannot go below {100 * fastest[0]:.4g} % of the original (measured; the smallest network tried has "
        f"{100 * search.smallest:.4g} % of the MACs), asked for at most {100 * limit:.4g} %. "
        "Raise the limit, lower the floor, or cut more groups",
        fastest[1],
    )


def _build(plan_at: Callable[[float], A], search: _Search, *, at_floor: bool) -> tuple[float, A] | None:
    """(share, network) at the next share; if it is out of reach, halfway towards the smallest share measured.

    None: no share is left that was not measured.
    """
    share = search.floor if at_floor and search.floor else search.next()
    while True:
        try:
            return share, plan_at(share)
        except BudgetNotMet:
            search.unreachable = max(search.unreachable, share)
            if search.floor_measured:
                if search.trail:
                    return None
                raise
            share = (search.unreachable + search.smallest) / 2


class _Search:
    """The state of a search. The share looked for lies between those of `fast` and `slow`."""

    def __init__(self, limit: float, options: SearchOptions):
        self.limit = limit
        self.first = limit if options.first is None else options.first
        self.floor = options.lowest * (1 + 1e-9)  # so that rounding does not put it out of reach
        self.low_end = limit * (1 - options.tolerance)
        self.aim = limit * (1 - options.tolerance / 2)
        self.unreachable = 0.0  # the largest share that `plan_at` refused
        self.trail: list[Step] = []

    @property
    def slow(self) -> Step:
        """The round with the smallest share that was too slow; before there is one, the original."""
        return min((s for s in self.trail if s.ratio > self.limit), key=lambda s: s.macs_share, default=Step(1.0, 1.0))

    @property
    def fast(self) -> Step | None:
        """The round with the largest share below `slow` that was fast enough."""
        below = [s for s in self.trail if s.ratio <= self.limit and s.macs_share < self.slow.macs_share]
        return max(below, key=lambda s: s.macs_share, default=None)

    @property
    def smallest(self) -> float:
        """The smallest share measured."""
        return min((s.macs_share for s in self.trail), default=1.0)

    @property
    def floor_measured(self) -> bool:
        """Whether the smallest reachable share was measured, to within half a per cent."""
        return self.smallest <= self.floor * 1.001 or self.smallest - self.unreachable <= 0.005 * self.smallest

    @property
    def done(self) -> bool:
        """Whether the last round met the target interval, or no share is left that could."""
        if self.low_end <= self.trail[-1].ratio <= self.limit:
            return True
        if self.fast is None:
            return self.floor_measured
        return self.slow.macs_share - self.fast.macs_share < 0.004

    def next(self) -> float:
        """The share to measure next."""
        if not self.trail:
            guess = max(self.first, self.floor)
        elif self.fast is None:
            guess = self._downwards()
        else:
            guess = self._between(self.fast, self.slow)
        return guess if guess > self.unreachable else (self.unreachable + self.smallest) / 2

    def _between(self, fast: Step, slow: Step) -> float:
        span = slow.macs_share - fast.macs_share
        guess = fast.macs_share + span * (self.aim - fast.ratio) / (slow.ratio - fast.ratio)
        if len(self.trail) > 3:  # where latency changes in steps, interpolation converges slowly; bisection does not
            guess = (guess + (slow.macs_share + fast.macs_share) / 2) / 2
        return min(max(guess, fast.macs_share + 0.1 * span), slow.macs_share - 0.1 * span)

    def _downwards(self) -> float:
        """Every share was too slow: extrapolate from the original, at least 10 % lower; from the third time on, far."""
        slow = self.slow
        slope = (1 - slow.ratio) / (1 - slow.macs_share)
        guess = slow.macs_share - (slow.ratio - self.aim) / slope if slope > 0.1 else slow.macs_share / 2
        if len(self.trail) >= 3:
            guess = self.floor or min(guess, slow.macs_share / 2)
        return max(min(guess, 0.9 * slow.macs_share), 0.3 * slow.macs_share, self.floor)
