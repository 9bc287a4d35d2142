"""A busy machine is noticed, measured longer, and its interval still holds the truth; a quiet one is left as it was."""

import gc
import itertools
import json
import math
import random
from dataclasses import replace

import pytest

from sartor.measure import Runnable, compare, compare_afresh, latency
from sartor.measure.latency import LATENCY_EFFORT, LONGER
from sartor.measure.noise import Moment, drift_share, noise_verdict, slow_share
from sartor.testing.neighbour import Neighbour
from sartor.types import Comparison, Effort, Latency, Target, median_interval, to_plain, wide_interval

TRUTH = 0.6
EFFORT = Effort(samples=40, min_seconds=0.3, max_seconds=1.0, precision=0.01)


@pytest.fixture(autouse=True)
def _light(monkeypatch) -> None:
    """Nothing real is measured: no garbage to collect first."""
    monkeypatch.setattr(gc, "collect", lambda: 0)


def beside(core: Neighbour, seconds: float, *, own: bool, **effort: float) -> Comparison:
    pair = (core.runnable(seconds, own=own), core.runnable(TRUTH * seconds, own=own))
    return compare(*pair, replace(EFFORT, **effort), clock=core.clock, running=core.running)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("seconds", [2e-4, 5e-3, 5e-2])
@pytest.mark.parametrize("jitter", [0.0, 0.01, 0.05])
def test_a_quiet_machine_is_never_called_noisy_nor_measured_longer(own, seconds, jitter) -> None:
    for seed in range(5):
        core = Neighbour(0.0, 1.0, seed=seed, jitter=jitter)
        got = beside(core, seconds, own=own)
        assert got.noisy == "" and not got.original.running
        assert got.interval == median_interval(got.ratios)
        assert sum(got.original.seconds) + sum(got.fitted.seconds) < 2 * EFFORT.max_seconds + seconds


@pytest.mark.parametrize(("busy", "calm", "drift"), [(0.02, 0.02, 0.0), (0.0, 1.0, 0.3)])
def test_neighbours_and_drifts_are_noticed_on_wall_time_alone(busy, calm, drift) -> None:
    for seed in range(4):
        core = Neighbour(busy, calm, seed=seed, drift=drift)
        got = beside(core, 0.01, own=False, min_seconds=1.0, max_seconds=4.0)
        assert got.noisy and got.interval == wide_interval(got.ratios)
        assert not got.original.running


@pytest.mark.parametrize("every", [2, 4, 7])
def test_bursts_that_come_regularly_are_noticed(every) -> None:
    times = (0.02 if k % every == 0 else 0.01 for k in itertools.count())
    now = [0.0]

    def step() -> None:
        now[0] += next(times)

    got = latency(Runnable(Target("eager"), step), clock=lambda: now[0])
    assert "of the samples took over a quarter longer" in got.noisy


@pytest.mark.parametrize("seconds", [1e-3, 8e-3, 5e-2])
@pytest.mark.parametrize("busy", [0.02, math.inf])
def test_what_the_process_ran_gives_the_ratio_though_the_neighbour_never_leaves(seconds, busy) -> None:
    for seed in range(5):
        got = beside(Neighbour(busy, 0.02, seed=seed), seconds, own=True)
        assert "kept this process from running" in got.noisy
        assert got.ratio == pytest.approx(TRUTH, rel=0.015)
        assert got.original.median_s == pytest.approx(seconds, rel=0.02)
        assert len(got.original.running) == len(got.original.seconds)
        assert sum(got.original.seconds) > 1.03 * sum(got.original.running)


def test_bursts_leave_the_ratio_within_a_few_per_cent_and_the_interval_holds_it() -> None:
    held = trials = 0
    for (busy, calm), seconds, own in itertools.product(
        [(0.02, 0.06), (0.2, 0.5), (0.5, 0.5)], [1e-3, 6e-3], [False, True]
    ):
        for seed in range(10):
            got = beside(Neighbour(busy, calm, seed=seed), seconds, own=own)
            assert got.ratio == pytest.approx(TRUTH, rel=0.03)
            low, high = got.interval
            held, trials = held + (low <= TRUTH <= high), trials + 1
    assert trials == 120 and held >= 0.92 * trials


def test_samples_that_hang_together_need_the_wide_interval() -> None:
    """Values that stay for ten samples: order statistics hold the middle half as often as they say."""
    held = {median_interval: 0, wide_interval: 0}
    for seed in range(200):
        rng = random.Random(seed)
        values = [x for _ in range(40) for x in [rng.gauss(0, 1)] * 10]
        for interval in held:
            low, high = interval(values)
            held[interval] += low <= 0 <= high
    assert held[median_interval] < 150 and held[wide_interval] >= 180


def test_sections_do_not_span_sessions() -> None:
    steady = [1.0, 1.1, 1.2] * 7
    split = wide_interval([*steady, *[x + 1 for x in steady]], sessions=2)
    assert split == wide_interval([*steady, *[x + 1 for x in steady]], sessions=1) or split[1] - split[0] > 0.5
    assert wide_interval([1.0] * 7, sessions=7) == (1.0, 1.0)
    assert wide_interval([3.0]) == (3.0, 3.0)


def test_a_noisy_machine_is_measured_twice_as_long_and_no_longer() -> None:
    core = Neighbour(math.inf, 1.0, seed=0)
    slow = core.runnable(0.01, own=True)
    begin = core.now
    effort = replace(LATENCY_EFFORT, samples=5, min_seconds=1.0, max_seconds=1.0)
    got = latency(slow, effort, clock=core.clock, running=core.running)
    warm = 0.6
    assert LONGER * 1.0 <= core.now - begin < LONGER * 1.0 + warm
    assert got.noisy and got.median_s == pytest.approx(0.01, rel=0.02)
    assert got.environment["noise"]["interrupted"] and got.environment["noise"]["away"] == pytest.approx(0.5, abs=0.1)


def test_sessions_are_pooled_with_the_verdict_of_the_worst() -> None:
    for busy, sessions in ((0.0, 2), (math.inf, 2), (0.3, 3)):
        core = Neighbour(busy, 1.0, seed=0)
        found = compare_afresh(
            lambda core=core: core.runnable(0.01, own=True), lambda core=core: core.runnable(TRUTH * 0.01, own=True),
            replace(EFFORT, sessions=sessions), clock=core.clock, running=core.running,
        )  # fmt: skip
        assert bool(found.noisy) == bool(found.original.running) == bool(busy)
        assert found.original.environment["sessions"] == sessions
        if busy:
            assert len(found.original.running) == len(found.original.seconds)
            assert "other work kept this process" in found.noisy
            assert found.interval == wide_interval(found.ratios, sessions)
        assert found.interval[0] <= TRUTH <= found.interval[1]


def moment(wall: float, own: float = 0.0, busy: float | None = None, steal: float | None = None) -> Moment:
    return Moment(wall, own, None, busy, steal)


@pytest.mark.parametrize(
    ("after", "threads", "said"),
    [
        (moment(1.0, own=1.9, busy=2.0, steal=0.0), 2, ""),
        (moment(1.0, own=1.1, busy=2.0, steal=0.0), 2, "other processes used 0.9 of 2 cores beside 2 timed threads"),
        (moment(1.0, own=1.0, busy=2.0, steal=0.0), 1, ""),  # the neighbour has a core of its own
        (moment(1.0, own=0.9, busy=1.0, steal=0.1), 1, "the hypervisor took 10 % of a core"),
        (moment(0.1, own=0.0, busy=0.2, steal=0.1), 2, ""),  # too short for these counters
    ],
)
def test_the_counters_of_the_system_speak_where_the_samples_cannot(after, threads, said, monkeypatch) -> None:
    monkeypatch.setattr("sartor.measure.noise.usable_cores", lambda: 2)
    begin = moment(0.0, busy=0.0, steal=0.0)
    for own in (True, False):
        noise = noise_verdict([1.0] * 20, (), begin, after, threads=threads if own else None)
        assert noise["why"] == (said if own else "")
        assert json.loads(json.dumps(noise)) == to_plain(noise) == noise


def test_what_the_system_does_not_tell_is_none(monkeypatch) -> None:
    monkeypatch.setattr("sartor.measure.noise._processors", lambda: (None, None))
    noise = noise_verdict([1.0] * 20, (), Moment.now(), Moment.now(), threads=2)
    assert noise["why"] == "" and noise["others"] is noise["steal"] is noise["away"] is None


def test_slow_samples_and_drift() -> None:
    assert slow_share([1.0] * 90 + [2.0] * 10) == pytest.approx(0.1)
    rng = random.Random(0)
    assert drift_share([rng.gauss(1, 0.05) for _ in range(60)]) == 0.0
    assert drift_share([1.0 + 0.01 * k for k in range(60)]) > 0.2
    assert drift_share([1.0, 2.0, 3.0]) == 0.0


def test_a_latency_nobody_judged_is_not_noisy() -> None:
    alone = Latency((1.0, 2.0), 1, Target("eager"))
    assert alone.noisy == "" and Comparison(alone, alone).noisy == "" and alone.times == (1.0, 2.0)
