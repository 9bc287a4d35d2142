"""From a limit on measured latency to the share of MACs that meets it: propose, build, measure, correct."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from sartor.errors import BadInput, BudgetNotMet, NothingToDo

A = TypeVar("A")


@dataclass(frozen=True)
class Step:
    """One round: at this share of the original's MACs the network took this share of its time.

    A search may count its shares in something else that grows with latency, such as the latency that was predicted.
    """

    macs_share: float
    ratio: float
    predicted: float | None = None  # the ratio that tables of latency said, where they were asked
    noisy: str = ""  # how the machine was disturbed meanwhile, in words


def fit_latency(
    plan_at: Callable[[float], A],
    measure: Callable[[A], float],
    limit: float,
    *,
    tolerance: float = 0.05,
    rounds: int = 6,
    lowest: float = 0.0,
    first: float | None = None,
) -> tuple[A, tuple[Step, ...]]:
    """Find the share of MACs at which the network, measured, is just fast enough.

    Latency falls with MACs, but in stairs and with noise, so every answer is a measurement: the share is moved by
    interpolation between the nearest too slow and the nearest too fast one until the ratio lies in
    [limit * (1 - tolerance), limit]. When no share gives that (a stair jumps over it), the largest network that was
    measured under the limit is the answer.

    Args:
        plan_at: share of the original's MACs in (0, 1) -> what to measure. May raise BudgetNotMet where it is too low.
        measure: that -> latency as a share of the original's; called once a round.
        limit: largest ratio allowed, in (0, 1).
        tolerance: how far below the limit is still a hit, as a share of it.
        rounds: measurements at most; one more if none of them met the limit and the floor was not among them.
        lowest: the least share that `plan_at` can reach, when known.
        first: the share to begin with; None: the limit itself.

    Returns:
        (what was measured within the limit, the rounds in order).

    Raises:
        NothingToDo: limit >= 1.
        BudgetNotMet: even the smallest network measured is too slow; the message says how slow, `plan` is the
            fastest one measured. Or what `plan_at` raised, if it can build nothing at all.
    """
    if not (math.isfinite(limit) and limit > 0):
        raise BadInput(f"latency limit: expected a share of the original above 0; got {limit}")
    if limit >= 1:
        raise NothingToDo(f"the original already meets a latency limit of {100 * limit:.4g} % of itself")
    if not (0 < tolerance < 1 and rounds >= 1 and 0 <= lowest < 1):
        raise BadInput(
            f"tolerance in (0, 1), rounds >= 1, lowest in [0, 1) expected; got {tolerance}, {rounds}, {lowest}"
        )
    if first is not None and not 0 < first < 1:
        raise BadInput(f"latency search, 'first': expected a share in (0, 1); got {first}")
    search = _Search(limit, tolerance, lowest, limit if first is None else first)
    fastest: tuple[float, A] | None = None  # for the message when nothing is fast enough
    best: tuple[float, A] | None = None  # largest share under the limit
    for number in range(rounds + 1):
        if number == rounds and (best or search.floor_measured):
            break
        built = _build(plan_at, search, at_floor=number == rounds)
        if built is None:
            break
        share, thing = built
        ratio = float(measure(thing))
        if not (math.isfinite(ratio) and ratio > 0):
            raise BadInput(f"measured latency ratio: expected a positive number; got {ratio}")
        search.trail.append(Step(share, ratio))
        if fastest is None or ratio < fastest[0]:
            fastest = (ratio, thing)
        if ratio <= limit and (best is None or share > best[0]):
            best = (share, thing)
        if search.done:
            break
    if best:
        return best[1], tuple(search.trail)
    assert fastest
    raise BudgetNotMet(
        f"latency cannot go below {100 * fastest[0]:.4g} % of the original (measured; the smallest network tried has "
        f"{100 * search.smallest:.4g} % of the MACs), asked for at most {100 * limit:.4g} %. "
        "Allow more, lower the floor, or cut more groups",
        fastest[1],
    )


def _build(plan_at: Callable[[float], A], search: _Search, *, at_floor: bool) -> tuple[float, A] | None:
    """What lies at the next share; where that cannot be reached, halfway back up. None: nothing new is left."""
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
    """What is known so far. Shares between `fast` and `slow` are worth trying."""

    def __init__(self, limit: float, tolerance: float, floor: float, first: float):
        self.limit, self.first = limit, first
        self.floor = floor * (1 + 1e-9)  # so that rounding does not put it out of reach
        self.low_end = limit * (1 - tolerance)
        self.aim = limit * (1 - tolerance / 2)
        self.unreachable = 0.0  # largest share known to be below what can be cut
        self.trail: list[Step] = []

    @property
    def slow(self) -> Step:
        """The least share that was too slow; the original itself in the beginning."""
        return min((s for s in self.trail if s.ratio > self.limit), key=lambda s: s.macs_share, default=Step(1.0, 1.0))

    @property
    def fast(self) -> Step | None:
        """The largest share below that which was fast enough."""
        below = [s for s in self.trail if s.ratio <= self.limit and s.macs_share < self.slow.macs_share]
        return max(below, key=lambda s: s.macs_share, default=None)

    @property
    def smallest(self) -> float:
        """The least share measured."""
        return min((s.macs_share for s in self.trail), default=1.0)

    @property
    def floor_measured(self) -> bool:
        """As little as can be left was measured, to half a per cent."""
        return self.smallest <= self.floor * 1.001 or self.smallest - self.unreachable <= 0.005 * self.smallest

    @property
    def done(self) -> bool:
        """The last round hit, or no share is left that could."""
        if self.low_end <= self.trail[-1].ratio <= self.limit:
            return True
        if self.fast is None:
            return self.floor_measured
        return self.slow.macs_share - self.fast.macs_share < 0.004

    def next(self) -> float:
        """The share to try."""
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
        if len(self.trail) > 3:  # on stairs interpolation creeps; halving does not
            guess = (guess + (slow.macs_share + fast.macs_share) / 2) / 2
        return min(max(guess, fast.macs_share + 0.1 * span), slow.macs_share - 0.1 * span)

    def _downwards(self) -> float:
        """Everything was too slow: along the line from the original, at least a tenth further; the third time, far."""
        slow = self.slow
        slope = (1 - slow.ratio) / (1 - slow.macs_share)
        guess = slow.macs_share - (slow.ratio - self.aim) / slope if slope > 0.1 else slow.macs_share / 2
        if len(self.trail) >= 3:
            guess = self.floor or min(guess, slow.macs_share / 2)
        return max(min(guess, 0.9 * slow.macs_share), 0.3 * slow.macs_share, self.floor)
