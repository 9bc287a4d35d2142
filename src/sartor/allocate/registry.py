"""The phone book of allocators, and the words they share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from sartor.registry import Entry, Registry
from sartor.types import Counts, Custom, Scores
from sartor.types.recipe import Allocation


class Cap(NamedTuple):
    """One counted cost that must not exceed a bound. Plain (cost, at_most) pairs do as well."""

    cost: Callable[[Counts], float]  # kept units by group -> cost; never smaller when more units are kept
    at_most: float
    name: str = "limit"


Keep = dict[str, tuple[int, ...]]  # group -> sorted indices of the units that stay


class Allocator(Protocol):
    """How many units stay where.

    Args:
        scores: group -> [units], larger = keep; groups that `units` does not name are ignored.
        limits: caps to meet, all of them.
        units: group -> how many there are; groups left out stay whole.
        ties: tuples of groups that must keep equal counts; when one of them stays whole, all do.
        floor: least share of every group that stays; at least one unit does in any case.
        round_to: a group that is cut keeps a multiple of it; a group that cannot stays whole.

    Returns:
        Kept units of the groups that are cut: those of highest score. Every cap is met, and no unit taken away (with
        those that go with it) could be put back.

    Raises:
        NothingToDo: the original meets all caps.
        BudgetNotMet: not even the smallest allowed network meets them; the message says what it costs,
            `plan` holds its kept units.
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
        round_to: int = 1,
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
