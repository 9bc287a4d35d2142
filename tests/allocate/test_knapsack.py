"""Widths chosen on costs with stairs and couplings, against every choice there is."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from sartor.allocate import ALLOCATORS, Cap
from sartor.allocate.knapsack import _menu
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


def loss(s, counts) -> float:
    """Score given up, each group's divided by the share of it that is kept."""
    found = 0.0
    for n, k in counts.items():
        kept, whole = float(s[n].sort(descending=True).values[:k].sum()), float(s[n].sum())
        found += (whole - kept) / (kept / whole)
    return found


def least_of_all(s, caps, ties=()) -> float:
    found = math.inf
    for a, b, c in itertools.product(*(range(max(1, math.ceil(0.1 * n)), n + 1) for n in UNITS.values())):
        counts = {"a": a, "b": b, "c": c}
        if any(len({counts[g] for g in t}) > 1 for t in ties):
            continue
        if all(x.cost(counts) <= x.at_most for x in caps):
            found = min(found, loss(s, counts))
    return found


def chosen(s, caps, **options):
    keep = ALLOCATORS["knapsack"].value(s, caps, UNITS, **options)
    return {n: len(keep[n]) if n in keep else k for n, k in UNITS.items()}


@pytest.mark.parametrize("share", [0.35, 0.6, 0.85])
@pytest.mark.parametrize("seed", range(4))
def test_it_loses_hardly_more_than_the_best_choice_there_is(seed, share) -> None:
    s, cap = scores(seed), Cap(CHAIN, share * CHAIN({}))
    counts = chosen(s, [cap])
    assert CHAIN(counts) <= cap.at_most
    assert loss(s, counts) <= 1.02 * least_of_all(s, [cap])


def test_widths_end_on_the_stairs() -> None:
    counts = chosen(scores(0), [Cap(CHAIN, 0.5 * CHAIN({}))])
    assert all(k % 4 == 0 for k in counts.values())


def test_several_limits_and_ties_hold_at_once() -> None:
    s, size = scores(1), cost(Part(("b",), lambda b: float(b)), Part(("c",), lambda c: float(c)))
    caps = [Cap(CHAIN, 0.7 * CHAIN({})), Cap(size, 0.6 * size({}))]
    counts = chosen(s, caps, ties=[("a", "b")])
    assert counts["a"] == counts["b"]
    assert all(c.cost(counts) <= c.at_most for c in caps)
    assert loss(s, counts) <= 1.05 * least_of_all(s, caps, ties=[("a", "b")])


def test_a_cost_of_three_groups_and_one_without_parts_are_met_all_the_same() -> None:
    s = scores(2)
    three = cost(Part(("a", "b", "c"), lambda a, b, c: float(a * b + stairs(c) * a)))
    peak = lambda counts: float(max({**UNITS, **counts}.values()))
    caps = [Cap(three, 0.5 * three({})), Cap(peak, 14.0)]
    counts = chosen(s, caps)
    assert all(c.cost(counts) <= c.at_most for c in caps)
    assert loss(s, counts) <= 1.2 * least_of_all(s, caps)


def test_it_looks_at_what_a_unit_costs_where_one_threshold_does_not() -> None:
    units = {f"g{i}": 16 for i in range(6)}
    parts = tuple(Part((n,), lambda k, i=i: (1.0 + 5 * i) * k) for i, n in enumerate(units))  # type: ignore[misc]

    def value(counts) -> float:
        return sum(p.cost({**units, **counts}[p.groups[0]]) for p in parts)

    dear = Cost("dear", value, parts, lambda widths: torch.zeros(()), units)
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        s, cap = {n: torch.rand(16, generator=g) for n in units}, Cap(dear, 0.5 * value({}))
        lost = []
        for name in ("global", "knapsack"):
            keep = ALLOCATORS[name].value(s, [cap], units)
            lost.append(loss(s, {n: len(keep.get(n, range(16))) for n in units}))
        assert lost[1] < 0.9 * lost[0]


def test_no_group_is_emptied_for_the_sake_of_the_others() -> None:
    """By the sum of scores alone a dear group goes down to its floor, however little of it that leaves."""
    dear = cost(
        Part(("a",), lambda a: 8.0 * a), Part(("b",), lambda b: 1.0 * b), Part(("c",), lambda c: 1.0 * c)
    )  # fmt: skip
    s = {n: torch.ones(k, dtype=torch.float64) for n, k in UNITS.items()}
    counts = chosen(s, [Cap(dear, 0.35 * dear({}))])
    assert counts["a"] >= 3 and counts["b"] < 16


def test_scores_below_zero_and_groups_that_score_nothing_are_taken() -> None:
    s = {"a": scores(0)["a"] - 0.5, "b": torch.zeros(16), "c": scores(0)["c"]}
    cap = Cap(CHAIN, 0.5 * CHAIN({}))
    assert CHAIN(chosen(s, [cap])) <= cap.at_most


def test_a_long_menu_is_spread_over_the_widths() -> None:
    """Costs that fall at every narrow width and in steps of 8 behind: the steps are in the menu all the same."""
    menu = _menu(range(1, 129), lambda k: [float(k) if k < 40 else 8.0 * math.ceil(k / 8)])
    assert len(menu) <= 14 and menu[0] == 1 and menu[-1] == 128
    assert max(b - a for a, b in itertools.pairwise(menu)) <= 16


def test_a_floor_that_is_too_high_is_said() -> None:
    with pytest.raises(BudgetNotMet, match="cannot go below"):
        chosen(scores(0), [Cap(CHAIN, 0.01)])
