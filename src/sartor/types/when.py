"""The schedules of a recipe: when units or weights go, and whether they may come back.

Times are shares of the run, in [0, 1], where a field is a float, and numbers of updates of the optimizer where it is an
int. Every schedule names the updates after which it decides: `steps(total)`.
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from sartor.errors import BadInput
from sartor.types.checked import Positive, Share, checked

Every = Positive | Annotated[float, Field(strict=True, gt=0, le=1)]  # updates, or a share of the run
Grow = Literal["leverage", "random", "gradient", "hebbian"]
Values = Literal["recent", "zero", "rewind", "reinitialise"]


@checked
class OneShot:
    """Everything is cut at once, after or without training."""

    kind: Literal["one-shot"] = "one-shot"

    def steps(self, total: int) -> tuple[int, ...]:
        """No update decides anything."""
        return ()


@checked
class Gradual:
    """More and more is removed along a curve while the network trains; the budget is met from `end` on."""

    curve: Literal["cubic", "linear", "one-cycle", "steps"] = "cubic"  # see `sartor.schedule.CURVES`
    start: Share = 0.0  # share of the run at which the first decision is made
    end: Share = 0.75  # share of the run from which on the budget is met
    every: Every = 0.02  # between two decisions
    kind: Literal["gradual"] = "gradual"

    def __post_init__(self) -> None:
        _check_order("gradual", self.start, self.end)

    def steps(self, total: int) -> tuple[int, ...]:
        """The updates after which it decides, of a run of `total`; the last one meets the budget.

        >>> Gradual(start=0.5, end=0.9, every=15).steps(100)
        (50, 65, 80, 90)
        """
        return regular_steps(round(self.start * total), round(self.end * total), self.every, total)


@checked
class PruneAndRegrow:
    """Some of what was removed comes back at every decision, less and less; the budget is met from `until` on."""

    every: Every = 0.02  # between two decisions
    until: Share = 0.75  # share of the run after which nothing comes back
    regrow: Share = 0.3  # at the first decision, this share of the dense network's cost is live beyond the budget
    curve: Literal["cosine"] = "cosine"  # of what comes back: from `regrow` to 0 at `until`
    within: Literal["score", "leverage"] = "score"
    # which units of a group stay, once the score has said how many: those with the best scores, or those that best
    # represent the group (units only)
    grow: Grow = "leverage"
    # what comes back: "leverage" what the rest represents worst, "random", "gradient" and "hebbian" (weights only)
    values: Values = "recent"
    # of what comes back: as it was when it was removed; "zero": what reads it is zero, so outputs do not change;
    # "rewind": as it was when the session began; "reinitialise": drawn with mean and deviation of what is live
    kind: Literal["prune-and-regrow"] = "prune-and-regrow"

    def steps(self, total: int) -> tuple[int, ...]:
        """The updates after which it decides: 0 first, then regularly; the last one meets the budget.

        >>> PruneAndRegrow(every=30, until=0.75).steps(100)
        (0, 30, 60, 75)
        """
        return regular_steps(0, round(self.until * total), self.every, total)


@checked
class HalfSpace:
    """Redundant units are regularised, and become zero where an update leaves their half-space; see DHSPG."""

    epsilon: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.95
    # a unit becomes zero once <new value, old value> falls below this share of its squared norm
    strength: Annotated[float, Field(strict=True, gt=0)] = 1e-3  # of the regulariser, before it is adapted
    amplify: Annotated[float, Field(strict=True, ge=1)] = 2.0  # of the adapted strength; at most 10 times `strength`
    kind: Literal["half-space"] = "half-space"


@checked
class Shrink:
    """Redundant units shrink to zero in equal steps from `start` to `end`; see HESSO."""

    kind: Literal["shrink"] = "shrink"


@checked
class Projected:
    """A projected optimizer drives what is redundant to zero, between `start` and `end`; then it is removed.

    Which units are redundant is decided once, at `start`, so that what remains meets the budget.
    """

    optimizer: Annotated[HalfSpace | Shrink, Field(discriminator="kind")] = field(default_factory=HalfSpace)
    start: Share = 0.1  # share of the run before which the optimizer is an ordinary one
    end: Share = 0.75  # share of the run from which on every redundant unit is zero
    kind: Literal["projected"] = "projected"

    def __post_init__(self) -> None:
        _check_order("projected", self.start, self.end)

    def steps(self, total: int) -> tuple[int, ...]:
        """The update that chooses the redundant units, and the one from which on they are gone.

        >>> Projected(start=0.1, end=0.75).steps(100)
        (10, 75)
        """
        return tuple(sorted({round(self.start * total), round(self.end * total)}))


@checked
class Decaying:
    """Units decay, the small ones faster, from `start` to `end`; there the budget is cut to, and the rest trains on."""

    strength: Annotated[float, Field(strict=True, gt=0)] = 1e-4  # of the decay of the largest unit of a group
    base: Annotated[float, Field(strict=True, ge=1)] = 16.0  # times as much for the smallest one
    start: Share = 0.0  # share of the run from which on units decay
    end: Share = 0.75  # share of the run at which the budget is met
    every: Every = 0.01  # between two measurements of the norms
    kind: Literal["decaying"] = "decaying"

    def __post_init__(self) -> None:
        _check_order("decaying", self.start, self.end)

    def steps(self, total: int) -> tuple[int, ...]:
        """The updates after which norms are measured; the last one meets the budget.

        >>> Decaying(start=0.5, end=0.8, every=20).steps(100)
        (50, 70, 80)
        """
        return regular_steps(round(self.start * total), round(self.end * total), self.every, total)


def regular_steps(first: int, last: int, every: int | float, total: int) -> tuple[int, ...]:
    """first, first + every, ... below last, and last."""
    step = every if isinstance(every, int) else max(1, round(every * total))
    return (*range(first, last, step), last)


def _check_order(name: str, start: float, end: float) -> None:
    if not start < end:
        raise BadInput(f"{name} field 'end': expected a share after start, {start:g}; got {end:g}")


__all__ = [
    "Decaying", "Every", "Gradual", "Grow", "HalfSpace", "OneShot", "Projected", "PruneAndRegrow", "Shrink", "Values",
    "regular_steps",
]  # fmt: skip
