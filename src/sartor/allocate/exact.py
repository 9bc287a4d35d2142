"""From an order of removal to kept counts that meet every cap, with as few units removed as possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sartor.allocate.bundles import Bundle, kept
from sartor.allocate.registry import Cap, Keep
from sartor.errors import BadInput, BudgetNotMet, NothingToDo
from sartor.types import Counts, Scores


def cut_until_met(
    order: Sequence[Bundle], limits: Sequence[Cap | tuple[Callable[[Counts], float], float]], scores: Scores
) -> Keep:
    """Remove bundles from the front of `order` until every cap is met, then put back bundles that still fit.

    The number of bundles is found by bisection. They are put back in reverse order. If a bundle of a group does not
    fit, the group's remaining bundles are not tried: costs only grow while bundles are put back. Cost functions are
    called about log2(bundles) times, then a few times per group.

    Args:
        order: bundles; those of one group are in their order.
        limits: caps.
        scores: select the units that stay, once their number is known.

    Returns:
        Kept units of the groups that are cut.

    Raises:
        NothingToDo, BudgetNotMet, BadInput: see `Allocator`.
    """
    caps = [Cap(*limit) for limit in limits]
    fits = feasible(caps, order, scores)
    few, enough = 0, len(order)  # removing `few` bundles exceeds a cap, removing `enough` meets all
    while enough - few > 1:
        middle = (few + enough) // 2
        few, enough = (few, middle) if fits(_removed({}, order[:middle])) else (middle, enough)
    counts = _removed({}, order[:enough])
    stuck = order[enough - 1].groups  # bisection has shown that the last bundle does not fit
    counts = put_back(counts, [b for b in order[: enough - 1] if b.groups != stuck], fits)
    whole = {g: b.before for b in reversed(order) for g in b.groups}
    return kept(scores, {g: k for g, k in counts.items() if k < whole[g]})


def feasible(caps: Sequence[Cap], order: Sequence[Bundle], scores: Scores) -> Callable[[Counts], bool]:
    """The test whether counts meet every cap; first checks that cutting is necessary and can meet them.

    Raises:
        NothingToDo, BudgetNotMet, BadInput: see `Allocator`.
    """
    if not caps:
        raise BadInput("allocation: expected at least one limit; got none")
    fits = _Test(caps)
    if fits({}):
        raise NothingToDo("the original already meets every counted limit; there is nothing to cut")
    least = _removed({}, order)
    if not fits(least):
        raise BudgetNotMet(_floor_message(caps, least), kept(scores, least))
    return fits


def put_back(counts: Counts, removed: Sequence[Bundle], fits: Callable[[Counts], bool]) -> dict[str, int]:
    """Put bundles back from the end of `removed` while they fit; a group of which one does not fit is left as it is."""
    counts = dict(counts)
    candidates = list(reversed(removed))
    while candidates:
        back = _fitting(counts, candidates, fits)
        counts = _put_back(counts, candidates[:back])
        stuck = candidates[back].groups if back < len(candidates) else ()
        candidates = [b for b in candidates[back + 1 :] if b.groups != stuck]
    return counts


def _removed(counts: Counts, steps: Sequence[Bundle]) -> dict[str, int]:
    return {**counts, **{g: b.after for b in steps for g in b.groups}}


def _put_back(counts: Mapping[str, int], steps: Sequence[Bundle]) -> dict[str, int]:
    return {**counts, **{g: b.before for b in steps for g in b.groups}}


def _fitting(counts: Counts, steps: Sequence[Bundle], fits: Callable[[Counts], bool]) -> int:
    """How many of the first steps fit together when they are put back."""
    return _longest(lambda k: fits(_put_back(counts, steps[:k])), len(steps))


def _longest(fine: Callable[[int], bool], most: int) -> int:
    """Largest n in [0, most] with fine(n), by doubling and bisection; fine(0) holds and fine is monotone.

    >>> _longest(lambda n: n <= 11, 100), _longest(lambda n: n == 0, 100), _longest(lambda n: True, 5)
    (11, 0, 5)
    """
    good, step = 0, 1
    while good < most and fine(min(good + step, most)):
        good, step = min(good + step, most), step * 2
    bad = min(good + step, most + 1) if good < most else most + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fine(middle) else (good, middle)
    return good


class _Test:
    """Whether counts meet every cap; the cap that failed last is tested first."""

    def __init__(self, caps: Sequence[Cap]):
        self.caps = list(caps)

    def __call__(self, counts: Counts) -> bool:
        for i, cap in enumerate(self.caps):
            if not cap.cost(counts) <= cap.at_most:
                self.caps.insert(0, self.caps.pop(i))
                return False
        return True


def _floor_message(caps: Sequence[Cap], least: Counts) -> str:
    """The cost of the smallest allowed network, for every cap it exceeds."""
    missed = [(c, c.cost(least)) for c in caps]
    parts = [
        f"{c.name} cannot go below {v:.6g}, asked for at most {c.at_most:.6g}" for c, v in missed if not v <= c.at_most
    ]
    return f"no plan meets the budget: {'; '.join(parts)}. Raise the limit, lower the floor, or cut more groups"
