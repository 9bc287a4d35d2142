"""Widths chosen on costs with stairs and couplings, against every choice there is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sartor.allocate import ALLOCATORS, Cap
from sartor.cost import Cost, Part
from sartor.errors import BudgetNotMet

UNITS = {"a": 16, "b": 16, "c": 8}


def scores(seed: int) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {n: torch.rand(k, generator=g) * (2 if n == "b" else 1) for n, k in UNITS.items()}


def cost(*parts: Part) -> Cost:
    def value(counts):
        full = {**UNITS, **counts}
        return sum(p.cost(*(full[g] for g in p.groups)) for p in parts)

    return Cost("test", value, parts, lambda widths: torch.zeros(()), UNITS, stairs=True)


def stairs(n: int, step: int = 4) -> int:
    return math.ceil(n / step) * step


CHAIN = cost(
    Part(("a",), lambda a: 3.0 * stairs(a)),
    Part(("a", "b"), lambda a, b: 0.5 * stairs(a) * stairs(b)),
    Part(("b", "c"), lambda b, c: 0.5 * stairs(b) * stairs(c)),
)


def worth(s, counts) -> float:
    return sum(float(s[n].sort(descending=True).values[:k].sum()) for n, k in counts.items())


def best_of_all(s, caps, ties=()) -> float:
    found = -1.0
    for a, b, c in itertools.product(*(range(max(1, math.ceil(0.1 * n)), n + 1) for n in UNITS.values())):
        counts = {"a": a, "b": b, "c": c}
        if any(len({counts[g] for g in t}) > 1 for t in ties):
            continue
        if all(x.cost(counts) <= x.at_most for x in caps):
            found = max(found, worth(s, counts))
    return found


def chosen(s, caps, **options):
    keep = ALLOCATORS["knapsack"].value(s, caps, UNITS, **options)
    return {n: len(keep[n]) if n in keep else k for n, k in UNITS.items()}


@pytest.mark.parametrize("share", [0.35, 0.6, 0.85])
@pytest.mark.parametrize("seed", range(4))
def test_it_keeps_nearly_as_much_as_the_best_choice_there_is(seed, share) -> None:
    s, cap = scores(seed), Cap(CHAIN, share * CHAIN({}))
    counts = chosen(s, [cap])
    assert CHAIN(counts) <= cap.at_most
    assert worth(s, counts) >= 0.985 * best_of_all(s, [cap])


def test_widths_end_on_the_stairs() -> None:
    counts = chosen(scores(0), [Cap(CHAIN, 0.5 * CHAIN({}))])
    assert all(k % 4 == 0 for k in counts.values())


def test_several_limits_and_ties_hold_at_once() -> None:
    s, size = scores(1), cost(Part(("b",), lambda b: float(b)), Part(("c",), lambda c: float(c)))
    caps = [Cap(CHAIN, 0.7 * CHAIN({})), Cap(size, 0.6 * size({}))]
    counts = chosen(s, caps, ties=[("a", "b")])
    assert counts["a"] == counts["b"]
    assert all(c.cost(counts) <= c.at_most for c in caps)
    assert worth(s, counts) >= 0.97 * best_of_all(s, caps, ties=[("a", "b")])


def test_a_cost_of_three_groups_and_one_without_parts_are_met_all_the_same() -> None:
    s = scores(2)
    three = cost(Part(("a", "b", "c"), lambda a, b, c: float(a * b + stairs(c) * a)))
    peak = lambda counts: float(max({**UNITS, **counts}.values()))
    caps = [Cap(three, 0.5 * three({})), Cap(peak, 14.0)]
    counts = chosen(s, caps)
    assert all(c.cost(counts) <= c.at_most for c in caps)
    assert worth(s, counts) >= 0.9 * best_of_all(s, caps)


def test_it_looks_at_what_a_unit_costs_where_one_threshold_does_not() -> None:
    units = {f"g{i}": 16 for i in range(6)}
    parts = tuple(Part((n,), lambda k, i=i: (1.0 + 5 * i) * k) for i, n in enumerate(units))  # type: ignore[misc]

    def value(counts) -> float:
        return sum(p.cost({**units, **counts}[p.groups[0]]) for p in parts)

    dear = Cost("dear", value, parts, lambda widths: torch.zeros(()), units)
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        s, cap = {n: torch.rand(16, generator=g) for n in units}, Cap(dear, 0.5 * value({}))
        kept = []
        for name in ("global", "knapsack"):
            keep = ALLOCATORS[name].value(s, [cap], units)
            kept.append(worth(s, {n: len(keep.get(n, range(16))) for n in units}))
        assert kept[1] > 1.02 * kept[0]


def test_a_floor_that_is_too_high_is_said() -> None:
    with pytest.raises(BudgetNotMet, match="cannot go below"):
        chosen(scores(0), [Cap(CHAIN, 0.01)])
