"""Schedules of a recipe that are made for weights: exchange, growing whole layers, regularisation before removal."""

from __future__ import annotations

import itertools
from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field

from sartor.errors import BadInput
from sartor.types.checked import Flag, Positive, Share, Weight, checked
from sartor.types.weights import Pattern
from sartor.types.when import Every, Values, regular_steps


@checked
class Falling:
    """Half a cosine from `first` at the beginning to 0 at the last decision."""

    first: Share = 0.3  # share of the live weights
    kind: Literal["falling"] = "falling"


@checked
class Constant:
    """The same share at every decision; 0: nothing is exchanged, the first masks stay."""

    share: Share = 0.3  # of the live weights
    kind: Literal["constant"] = "constant"


@checked
class Staged:
    """One share for each part of the run."""

    boundaries: tuple[Share, ...] = (0.5625, 0.75)  # shares of the run at which the second and later stages begin
    shares: tuple[Share, ...] = (0.2, 0.1, 0.0)  # of the live weights
    kind: Literal["staged"] = "staged"

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.boundaries) + 1:
            raise BadInput(
                f"staged field 'shares': expected one more than boundaries; got {len(self.shares)} and "
                f"{len(self.boundaries)}"
            )
        if any(b <= a for a, b in itertools.pairwise(self.boundaries)):
            raise BadInput(f"staged field 'boundaries': expected increasing shares; got {self.boundaries}")


@checked
class Rewire:
    """The network is sparse from the first update on; at every decision some live weights go and as many others come.

    Every matrix keeps its number of live weights.
    """

    every: Every = 100  # between two decisions
    until: Share = 0.75  # share of the run after which the masks stay
    exchange: Annotated[Falling | Constant | Staged, Field(discriminator="kind")] = field(default_factory=Falling)
    grow: Literal["random", "gradient", "hebbian"] = "random"  # what comes; see `sartor.sparse.growth`
    values: Values = "zero"  # of what comes back, see `PruneAndRegrow`
    beyond: Flag = False
    # whether the exchanged share is live beyond the budget until the next decision: what goes first is what exceeds the
    # budget, then the share comes. The last decision meets the budget
    begin: Pattern | None = None  # of the first masks, drawn at random; None: the pattern of the cut
    kind: Literal["rewire"] = "rewire"

    def steps(self, total: int) -> tuple[int, ...]:
        """The updates after which it decides: 0 first, then regularly.

        >>> Rewire(every=30, until=0.75).steps(100)
        (0, 30, 60, 75)
        """
        return regular_steps(0, round(self.until * total), self.every, total)


@checked
class GrowAndPrune:
    """Layers form partitions; one partition after another is dense for a while, the others stay sparse."""

    partitions: Positive = 4
    rounds: Positive = 8  # in how many of them a partition is dense
    until: Share = 0.85  # share of the run after which everything is sparse
    order: Literal["cyclic", "random"] = "cyclic"  # of the partitions: in the order of layers, or drawn for every cycle
    kind: Literal["grow-and-prune"] = "grow-and-prune"

    def __post_init__(self) -> None:
        if self.rounds < self.partitions:
            raise BadInput(
                f"grow-and-prune field 'rounds': expected at least one for each of {self.partitions} partitions; got "
                f"{self.rounds}"
            )

    def steps(self, total: int) -> tuple[int, ...]:
        """The updates at which a round begins, and the one at which the last one ends.

        >>> GrowAndPrune(partitions=2, rounds=4, until=0.8).steps(100)
        (0, 20, 40, 60, 80)
        """
        return tuple(dict.fromkeys(round(i * self.until * total / self.rounds) for i in range(self.rounds + 1)))


@checked
class Reweighted:
    """A penalty drives small weights or blocks to zero, small ones harder; then the smallest are removed.

    The penalty is strength * sum of a_g ||w_g||^2 with a_g = 1 / (||w_g||^2 + epsilon), and a_g is computed anew at
    every refresh.
    """

    strength: Weight = 1e-4
    epsilon: Annotated[float, Field(strict=True, gt=0)] = 1e-3
    refreshes: Positive = 4
    start: Share = 0.0  # share of the run from which on there is a penalty
    end: Share = 0.6  # share of the run at which the smallest are removed; then the rest trains without a penalty
    kind: Literal["reweighted"] = "reweighted"

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise BadInput(f"reweighted field 'end': expected a share after start, {self.start:g}; got {self.end:g}")

    def steps(self, total: int) -> tuple[int, ...]:
        """The updates at which the penalty is refreshed, and the one at which the smallest are removed.

        >>> Reweighted(refreshes=3, end=0.6).steps(100)
        (0, 20, 40, 60)
        """
        first, last = round(self.start * total), round(self.end * total)
        points = (first + round(i * (last - first) / self.refreshes) for i in range(self.refreshes + 1))
        return tuple(dict.fromkeys(points))


@checked
class Iterative:
    """Rounds of training end with a pruning, each of the same share of what is live; then a last part trains."""

    rounds: Positive = 5  # prunings; the run has one part more
    rewind: Flag = True  # whether everything then goes back to where the session began, dead weights at zero
    activate: Share = 0.0
    # of the weights that go, this share are negative ones that moved least in the round (activate-while-pruning)
    kind: Literal["iterative"] = "iterative"

    def steps(self, total: int) -> tuple[int, ...]:
        """The updates after which it prunes.

        >>> Iterative(rounds=3).steps(100)
        (25, 50, 75)
        """
        return tuple(dict.fromkeys(round(i * total / (self.rounds + 1)) for i in range(1, self.rounds + 1)))


__all__ = ["Constant", "Falling", "GrowAndPrune", "Iterative", "Reweighted", "Rewire", "Staged"]
