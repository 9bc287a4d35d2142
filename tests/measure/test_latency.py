"""The stopwatch, on a clock that only the fakes move: no test here waits or looks at real time."""

import gc
import itertools
import random
from contextlib import contextmanager
from dataclasses import replace

import pytest

from sartor.errors import BadInput
from sartor.measure import Runnable, compare, compare_afresh, latency
from sartor.measure.latency import COMPARE_EFFORT, LATENCY_EFFORT, LONGER, MOST, SETTLE_S
from sartor.types import Effort, Target

TARGET = Target("eager")


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def fake(clock, durations, log=None, name="", target=TARGET, settings=None):
    """A runnable whose inferences take the given seconds on the clock."""
    durations = iter(durations)

    def step():
        clock.now += next(durations)
        if log is not None:
            log.append(name)

    return Runnable(target, step, **({"settings": settings} if settings else {}))


def noisy(seconds, share, seed):
    rng = random.Random(seed)
    while True:
        yield seconds * (1 + share * rng.random())


def test_steady_durations_are_reported_exactly():
    clock = Clock()
    got = latency(fake(clock, itertools.repeat(0.25)), replace(LATENCY_EFFORT, samples=10), clock=clock)
    assert got.median_s == pytest.approx(0.25) and got.iqr_s == pytest.approx(0)
    assert len(got.seconds) >= 10 and got.target == TARGET
    assert got.environment["cpu"] and got.environment["sampling"]["precise"]


def test_warming_up_is_never_in_the_samples():
    clock = Clock()
    cold = [0.5 * 0.7**k + 0.01 for k in range(10)]
    got = latency(fake(clock, itertools.chain(cold, itertools.repeat(0.01))), clock=clock)
    assert max(got.seconds) == pytest.approx(0.01)
    assert got.warmup > len(cold)


def test_a_model_that_never_settles_is_measured_all_the_same():
    clock = Clock()
    effort = replace(LATENCY_EFFORT, samples=3, max_seconds=5)
    got = latency(fake(clock, (0.1 * 1.1**k for k in itertools.count())), effort, clock=clock)
    assert got.seconds


def test_short_inferences_are_timed_several_at_once_and_reported_singly():
    clock = Clock()
    got = latency(fake(clock, itertools.repeat(1e-6)), clock=clock)
    assert got.median_s == pytest.approx(1e-6)
    assert got.environment["sampling"]["inferences_per_sample"] == pytest.approx(1000, abs=1)


def test_turns_alternate_a_b_b_a():
    clock, log = Clock(), []
    a = fake(clock, itertools.repeat(4 * SETTLE_S), log, "a")
    b = fake(clock, itertools.repeat(2 * SETTLE_S), log, "b")
    got = compare(a, b, replace(COMPARE_EFFORT, samples=6, max_seconds=100), clock=clock)
    turns = "".join(log[got.original.warmup + got.fitted.warmup :])
    assert turns == ("abba" * len(turns))[: len(turns)] and len(turns) % 4 == 0


def test_short_ones_run_once_untimed_when_their_turn_begins():
    clock, log = Clock(), []
    a = fake(clock, itertools.repeat(0.010), log, "a")
    b = fake(clock, itertools.repeat(0.005), log, "b")
    got = compare(a, b, replace(COMPARE_EFFORT, samples=6), clock=clock)
    turns = "".join(log[got.original.warmup + got.fitted.warmup :])
    assert turns == ("aabbbbaa" * len(turns))[: len(turns)]


def test_a_machine_that_slows_down_does_not_change_the_ratio():
    clock = Clock()
    drift = lambda seconds: (seconds * (1 + clock.now) for _ in itertools.count())
    effort = replace(COMPARE_EFFORT, samples=20, max_seconds=1e9)
    got = compare(fake(clock, drift(0.2)), fake(clock, drift(0.1)), effort, clock=clock)
    assert max(got.original.seconds) > 5 * min(got.original.seconds)
    # the slow-down inside one pair is what order A B B A averages out
    assert got.ratio == pytest.approx(0.5, rel=0.25)
    low, high = got.interval
    assert low <= 0.5 <= high


def test_the_noisier_the_machine_the_more_samples_until_the_interval_is_narrow():
    taken = []
    for share in (0.01, 0.1, 0.3):
        clock = Clock()
        pair = (fake(clock, noisy(0.02, share, seed)) for seed in (1, 2))
        got = compare(*pair, Effort(samples=10, min_seconds=0, max_seconds=1e9, precision=0.02), clock=clock)
        low, high = got.interval
        assert got.original.environment["sampling"]["precise"] and (high - low) / 2 <= 0.02 * got.ratio
        assert low <= got.ratio <= high
        taken.append(len(got.ratios))
    assert taken[0] == 10 and taken == sorted(taken) and taken[-1] > 50


@pytest.mark.parametrize("most", ["seconds", "samples"])
def test_there_is_a_cap_and_the_result_says_that_it_was_met(most):
    clock = Clock()
    wild = (fake(clock, (0.2 * 10 ** random.Random(k).random() for k in itertools.count(s))) for s in (1, 1000))
    cap = 10.0 if most == "seconds" else 1e9
    got = compare(*wild, replace(COMPARE_EFFORT, samples=10, precision=1e-6, max_seconds=cap), clock=clock)
    assert not got.fitted.environment["sampling"]["precise"]
    assert got.noisy  # so all of it is allowed twice
    assert len(got.ratios) <= LONGER * MOST * 10
    if most == "seconds":
        assert sum(got.original.seconds) + sum(got.fitted.seconds) <= LONGER * 10 + 2 * 2 * 2.0


def test_a_clock_that_stands_still_ends():
    got = latency(Runnable(TARGET, lambda: None), replace(LATENCY_EFFORT, samples=2), clock=lambda: 0.0)
    assert all(s > 0 for s in got.seconds)


def test_settings_hold_for_the_whole_measurement_and_are_undone_even_when_a_run_fails():
    clock, log = Clock(), []

    @contextmanager
    def settings():
        log.append("in")
        try:
            yield
        finally:
            log.append("out")

    latency(fake(clock, itertools.repeat(0.1), settings=settings), replace(LATENCY_EFFORT, samples=3), clock=clock)
    assert log == ["in", "out"]
    with pytest.raises(StopIteration):  # the durations run out
        latency(fake(clock, [0.1] * 30, settings=settings), replace(LATENCY_EFFORT, samples=100), clock=clock)
    assert log == ["in", "out"] * 2 and gc.isenabled()


def test_two_targets_cannot_be_compared():
    clock = Clock()
    pair = (fake(clock, itertools.repeat(1.0), target=Target("eager", threads=n)) for n in (1, 2))
    with pytest.raises(BadInput, match="one target"):
        compare(*pair, clock=clock)


@pytest.mark.parametrize(
    "wrong", [{"samples": 0}, {"min_seconds": 5, "max_seconds": 1}, {"precision": 0}, {"sessions": 0}]
)
def test_an_effort_out_of_range_is_refused(wrong):
    with pytest.raises(BadInput, match="|".join(wrong)):
        Effort(**wrong)


def afresh(clock, seconds, prepared=None, preparing=0.0):
    """A way to put a network on the target: inferences of each session take the next of `seconds`."""
    sessions = iter(seconds)

    def prepare():
        clock.now += preparing
        if prepared is not None:
            prepared.append(clock.now)
        return fake(clock, itertools.repeat(next(sessions)))

    return prepare


def test_every_session_puts_both_on_the_target_anew_and_counts_alike():
    clock, prepared = Clock(), []
    original = afresh(clock, [1.0, 1.0, 1.0], prepared)
    fitted = afresh(clock, [0.5, 0.6, 0.7], prepared)
    got = compare_afresh(original, fitted, replace(COMPARE_EFFORT, samples=5, max_seconds=100), clock=clock)
    assert len(prepared) == 6 and got.ratio == pytest.approx(0.6)
    by_session = [round(r, 6) for r in got.ratios]
    assert by_session.count(0.5) == by_session.count(0.6) == by_session.count(0.7) >= 5
    assert got.original.environment["sessions"] == 3


def test_a_session_that_measures_longer_weighs_no_more():
    clock = Clock()
    steady, restless = itertools.repeat(1.0), noisy(1.0, 0.5, 1)
    sessions = iter([steady, restless])
    got = compare_afresh(
        afresh(clock, [1.0, 1.0]), lambda: fake(clock, next(sessions)),
        Effort(sessions=2, samples=5, min_seconds=0.0, max_seconds=200, precision=0.02), clock=clock,
    )  # fmt: skip
    assert sum(r == pytest.approx(1.0) for r in got.ratios) == len(got.ratios) / 2


def test_no_further_session_where_putting_on_the_target_takes_long():
    clock, prepared = Clock(), []
    compare_afresh(
        afresh(clock, [1.0] * 3, prepared, preparing=20.0), afresh(clock, [1.0] * 3),
        replace(COMPARE_EFFORT, sessions=3, samples=5, max_seconds=100), patience=15.0, clock=clock,
    )  # fmt: skip
    assert len(prepared) == 1


def test_in_turns_both_or_neither_get_the_caches_to_themselves():
    """One just above the bound and one just below were once timed by different rules, and their ratio flipped."""
    clock, log = Clock(), []
    a = fake(clock, itertools.repeat(1.2 * SETTLE_S), log, "a")
    b = fake(clock, itertools.repeat(0.8 * SETTLE_S), log, "b")
    got = compare(a, b, replace(COMPARE_EFFORT, samples=6, max_seconds=100), clock=clock)
    turns = "".join(log[got.original.warmup + got.fitted.warmup :])
    assert turns == ("aabbbbaa" * len(turns))[: len(turns)] and len(turns) % 8 == 0
