"""The registry of allocators and the types they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from sartor.allocate.bundles import RoundTo
from sartor.registry import Entry, Registry
from sartor.types import Counts, Custom, Scores
from sartor.types.recipe import Allocation


class Cap(NamedTuple):
    """A bound on one counted cost. Functions of this package also accept plain pairs (cost, at_most)."""

    cost: Callable[[Counts], float]  # kept units by group -> cost; must not decrease when more units are kept
    at_most: float
    name: str = "limit"


Keep = dict[str, tuple[int, ...]]  # group -> sorted indices of the units that stay


class Allocator(Protocol):
    """Decides which units of every group stay.

    Args:
        scores: group -> [units], larger = keep; groups that are not in `units` are ignored.
        limits: caps; all of them must be met.
        units: group -> number of units; groups that are not in it stay whole.
        ties: tuples of groups that must keep equal counts; if one of them is not in `units`, all stay whole.
        floor: least share of every group that stays; at least one unit always does.
        round_to: a group that is cut keeps a multiple of this number, None: of the number that `alignment` gives for
            its size; a group that cannot stays whole.

    Returns:
        Kept units of the groups that are cut: those with the highest scores. Every cap is met, and putting back any
        removed unit (with those tied to it) would exceed a cap.

    Raises:
        NothingToDo: the original meets all caps.
        BudgetNotMet: even the smallest allowed network exceeds a cap; the message says what it costs, `plan` holds its
            kept units.
        BadInput: scores and units do not fit together, or an option is out of range.
    """

    def __call__(
        self,
        scores: Scores,
        limits: Sequence[Cap | tuple[Callable[[Counts], float], float]],
        units: Mapping[str, int],
        *,
        ties: Sequence[Sequence[str]] = (),
        floor: float = 0.1,
        round_to: RoundTo = 1,
    ) -> Keep: ...


ALLOCATORS: Registry[Allocator] = Registry("allocator")


def allocator_of(allocation: Allocation) -> Entry[Allocator]:
    """The registered allocator that a recipe names, or a function of one's own as an entry without traits.

    Raises:
        UnknownName: no allocator is called so.
    """
    if not isinstance(allocation, Custom):
        return ALLOCATORS[allocation.kind]
    named = allocation.allocator
    return ALLOCATORS[named] if isinstance(named, str) else Entry(getattr(named, "__name__", "custom"), named, "", "")
