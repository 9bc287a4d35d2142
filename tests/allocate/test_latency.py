"""The loop that moves the share of MACs until the measured ratio is right."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.allocate import SearchOptions, fit_latency
from sartor.errors import BadInput, BudgetNotMet, NothingToDo


def machine(overhead=0.0, power=1.0, stairs=0, noise=0.0, seed=0):
    """Ratio of time by share of MACs: an overhead, a bend, stairs upwards, multiplicative noise."""
    rng = random.Random(seed)

    def ratio(share):
        step = math.ceil(share * stairs - 1e-9) / stairs if stairs else share
        return (overhead + (1 - overhead) * step**power) * math.exp(rng.gauss(0, noise))

    return ratio


class Bench:
    """plan_at and measure over a machine; shares below `floor` cannot be planned."""

    def __init__(self, ratio, floor=0.0):
        self.ratio, self.floor, self.measured = ratio, floor, []

    def plan_at(self, share):
        assert 0 < share < 1
        if share < self.floor:
            raise BudgetNotMet(f"macs cannot go below {self.floor}")
        return share

    def measure(self, share):
        self.measured.append(share)
        return self.ratio(share)


@settings(max_examples=300, deadline=None)
@given(
    limit=st.floats(0.4, 0.9),
    overhead=st.floats(0.0, 0.2),
    power=st.floats(0.75, 2.0),
    stairs=st.sampled_from([0, 256]),
)
def test_fine_monotone_curves_are_hit_within_the_tolerance(limit, overhead, power, stairs):
    bench = Bench(machine(overhead, power, stairs))
    share, trail = fit_latency(bench.plan_at, bench.measure, limit)
    assert limit * 0.95 <= bench.ratio(share) <= limit
    assert len(trail) == len(bench.measured) <= 6
    assert [s.macs_share for s in trail] == bench.measured and trail[-1].macs_share == share


@settings(max_examples=300, deadline=None)
@given(part=st.floats(0.1, 0.9), overhead=st.floats(0.0, 0.25), stairs=st.integers(3, 12), seed=st.integers(0, 10**6))
def test_coarse_noisy_stairs_end_under_the_limit_with_little_to_spare(part, overhead, stairs, seed):
    """A stair may jump over the tolerance: the answer is then one stair, and what six rounds leave open, below."""
    lowest = overhead + (1 - overhead) / stairs
    limit = 1.05 * lowest + part * (0.95 - 1.05 * lowest)
    bench = Bench(machine(overhead, 1.0, stairs, noise=0.01, seed=seed))
    share, trail = fit_latency(bench.plan_at, bench.measure, limit)
    found = next(s for s in trail if s.macs_share == share)
    assert found.ratio <= limit
    clean = machine(overhead, 1.0, stairs)
    assert clean(min(share + 1.1 / stairs + 0.12, 1.0)) > limit * 0.95
    assert len(trail) <= 7


@settings(max_examples=200, deadline=None)
@given(
    floor=st.floats(0.05, 0.9), overhead=st.floats(0.3, 0.9), known=st.booleans(), noise=st.sampled_from([0.0, 0.01])
)
def test_an_unreachable_limit_says_the_floor_it_measured(floor, overhead, known, noise):
    bench = Bench(machine(overhead, noise=noise), floor=floor)
    least = overhead + (1 - overhead) * floor
    limit = 0.9 * least
    with pytest.raises(BudgetNotMet) as e:
        fit_latency(bench.plan_at, bench.measure, limit, SearchOptions(lowest=floor if known else 0.0))
    assert "latency cannot go below" in str(e.value) and f"asked for at most {100 * limit:.4g} %" in str(e.value)
    assert e.value.plan in bench.measured
    assert min(bench.measured) <= floor * (1.001 if known else 1.1) + (0 if known else 0.02)
    assert len(bench.measured) <= 7


@settings(max_examples=200, deadline=None)
@given(floor=st.floats(0.3, 0.9), gap=st.floats(0.05, 0.3), known=st.booleans())
def test_a_limit_that_only_the_floor_can_meet_is_met(floor, gap, known):
    """First guesses lie below what can be cut; the loop comes back up."""
    bench = Bench(machine(0.0, 2.0), floor=floor)
    limit = min(floor**2 * (1 + gap), 0.99)
    share, _ = fit_latency(bench.plan_at, bench.measure, limit, SearchOptions(lowest=floor if known else 0.0))
    assert bench.ratio(share) <= limit and share >= floor


def test_nothing_can_be_planned_at_all():
    with pytest.raises(BudgetNotMet, match="below 2"):
        bench = Bench(machine(), floor=2)
        fit_latency(bench.plan_at, bench.measure, 0.5)


def test_latency_that_does_not_follow_macs_ends_at_the_floor():
    bench = Bench(lambda share: 0.99, floor=0.1)
    with pytest.raises(BudgetNotMet, match="cannot go below 99 %"):
        fit_latency(bench.plan_at, bench.measure, 0.5, SearchOptions(lowest=0.1))
    assert min(bench.measured) == pytest.approx(0.1) and len(bench.measured) <= 7


def test_another_limit_already_makes_it_fast_enough():
    """The plan is bound by something else and more MACs are asked for in vain: the largest under the limit it is."""
    bench = Bench(lambda share: min(0.4, share))
    share, trail = fit_latency(bench.plan_at, bench.measure, 0.6)
    assert share == max(s.macs_share for s in trail) and share > 0.9


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_limits_that_are_no_share_are_refused(limit):
    with pytest.raises(BadInput, match="latency limit"):
        fit_latency(lambda s: s, lambda s: s, limit)


def test_nothing_to_do_and_bad_options():
    with pytest.raises(NothingToDo):
        fit_latency(lambda s: s, lambda s: s, 1.0)
    with pytest.raises(BadInput, match="rounds"):
        fit_latency(lambda s: s, lambda s: s, 0.5, SearchOptions(rounds=0))
    with pytest.raises(BadInput, match="expected a positive number; got nan"):
        fit_latency(lambda s: s, lambda s: float("nan"), 0.5)


def test_a_good_first_guess_is_a_round_less():
    bench = Bench(machine(overhead=0.3))
    fit_latency(bench.plan_at, bench.measure, 0.6, SearchOptions(first=(0.59 - 0.3) / 0.7))
    assert len(bench.measured) == 1
    with pytest.raises(BadInput, match="first"):
        fit_latency(bench.plan_at, bench.measure, 0.6, SearchOptions(first=1.0))
