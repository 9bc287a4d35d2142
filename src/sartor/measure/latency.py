"""The stopwatch: warm-up until stable, interleaved turns, as many samples as the noise asks for."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.borrow import uncollected
from sartor.errors import BadInput
from sartor.measure.runnable import Runnable
from sartor.types import Comparison, Latency, median_interval

Clock = Callable[[], float]  # seconds, from any beginning

SAMPLE_S = 1e-3  # shorter inferences are timed several at once
SETTLE_S = 0.1  # in turns, inferences shorter than this are run once untimed first, to have the caches to themselves
WINDOW = 5  # warm-up compares medians of this many inferences
STABLE = 0.05  # ... until they differ by less than this share
WARMUP_S = 3.0  # ... or this long has passed
WORTH = 0.2  # of the seconds that a session took to prepare may be spent on measuring it
MOST = 40  # at most this many times the samples asked for


@dataclass(frozen=True)
class _Warm:
    runs: int
    repeats: int  # inferences per sample
    settle: bool


def latency(
    runnable: Runnable,
    *,
    samples: int = 40,
    min_seconds: float = 0.5,
    max_seconds: float = 10.0,
    precision: float = 0.02,
    clock: Clock = time.perf_counter,
) -> Latency:
    """Time one runnable.

    Args:
        runnable: see `sartor.measure.prepare`.
        samples: at least this many are taken, unless the time is up.
        min_seconds: at least this long is measured.
        max_seconds: no new sample is begun after it (warm-up not included).
        precision: samples are added until half the 95 % interval of the median is at most this share of it.
        clock: gives seconds; tests pass their own.

    Returns:
        Seconds per inference (of `target.batch` examples), raw; the environment says under "sampling" how they came.
    """
    _check(samples, min_seconds, max_seconds, precision)
    before = runnable.facts()
    gc.collect()
    with runnable.held(), uncollected():
        warm = _warm_up(runnable, clock)
        start, taken = clock(), []
        while True:
            taken.append(_sample(runnable, warm, clock))
            spread = _half_width(taken)
            if _enough(len(taken), clock() - start, spread, samples, min_seconds, max_seconds, precision):
                break
    facts = {**before, "sampling": _sampling(warm, spread, precision, turns=False)}
    return Latency(tuple(taken), warm.runs, runnable.target, facts)


def compare(
    original: Runnable,
    fitted: Runnable,
    *,
    samples: int = 40,
    min_seconds: float = 1.0,
    max_seconds: float = 20.0,
    precision: float = 0.02,
    clock: Clock = time.perf_counter,
) -> Comparison:
    """Time two runnables in turns, A B B A, so that both meet the same moments of the machine.

    Args:
        original: the reference, A.
        fitted: what is compared with it, B; on the same target.
        samples: at least this many pairs are taken, unless the time is up.
        min_seconds: at least this long is measured.
        max_seconds: no new pair is begun after it (warm-up not included).
        precision: pairs are added until half the 95 % interval of the median ratio is at most this share of it.
        clock: gives seconds; tests pass their own.

    Returns:
        Samples in seconds per inference; sample i of both was taken side by side.

    Raises:
        BadInput: the two are on different targets.
    """
    _check(samples, min_seconds, max_seconds, precision)
    if original.target != fitted.target:
        raise BadInput(
            f"compare: expected two runnables on one target; got {original.target} and {fitted.target}; "
            "prepare both alike"
        )
    before = original.facts()
    pair = (original, fitted)
    gc.collect()
    with original.held(), fitted.held(), uncollected():
        warm = (_warm_up(original, clock), _warm_up(fitted, clock))
        taken: tuple[list[float], list[float]] = ([], [])
        start = clock()
        while True:
            for which in (0, 1) if len(taken[0]) % 2 == 0 else (1, 0):
                if warm[which].settle:
                    pair[which].timed(1, clock)
                taken[which].append(_sample(pair[which], warm[which], clock))
            ratios = [b / a for a, b in zip(*taken)]
            spread = _half_width(ratios)
            if _enough(len(ratios), clock() - start, spread, samples, min_seconds, max_seconds, precision):
                break
    first, second = (
        Latency(tuple(s), w.runs, r.target, {**before, "sampling": _sampling(w, spread, precision, turns=True)})
        for s, w, r in zip(taken, warm, pair)
    )
    return Comparison(first, second)


def compare_afresh(
    original: Callable[[], Runnable],
    fitted: Callable[[], Runnable],
    *,
    sessions: int = 3,
    patience: float = 15.0,
    clock: Clock = time.perf_counter,
    **effort: Any,
) -> Comparison:
    """Compare in several sessions, each with both put on the target anew, and pool their samples.

    Where a runtime puts its buffers and threads is decided anew in every session, and moves the speed of a small
    network by a few per cent; within one session that cannot be seen.

    Args:
        original: puts the reference on the target.
        fitted: puts what is compared with it on the same target.
        sessions: at most this many.
        patience: no further session is begun when putting the two on the target took longer than this, in seconds.
        clock: gives seconds.
        effort: `samples`, `min_seconds`, `max_seconds`, `precision` of every session, as `compare` takes them; where
            preparing took long, `max_seconds` may be more.

    Returns:
        As many pairs of every session as the session with fewest has.

    Raises:
        BadInput: as `compare`, or no session.
    """
    if sessions < 1:
        raise BadInput(f"compare, 'sessions': expected at least 1; got {sessions}")
    found: list[Comparison] = []
    while len(found) < sessions:
        begin = clock()
        with original() as a, fitted() as b:
            preparing = clock() - begin
            found.append(compare(a, b, clock=clock, **_worth(effort, preparing)))
        if preparing > patience:
            break
    least = min(len(c.ratios) for c in found)
    return Comparison(_pooled([c.original for c in found], least), _pooled([c.fitted for c in found], least))


def _worth(effort: Mapping[str, Any], preparing: float) -> dict[str, Any]:
    """The effort of a session; what took long to prepare is not measured for an instant only."""
    least = max(effort.get("max_seconds", 0.0), WORTH * preparing)
    return {**effort, "max_seconds": least} if "max_seconds" in effort else dict(effort)


def _pooled(sessions: Sequence[Latency], least: int) -> Latency:
    """Every session's first `least` samples, with the facts of the first session."""
    first = sessions[0]
    together = tuple(s for one in sessions for s in one.seconds[:least])
    return Latency(together, first.warmup, first.target, {**first.environment, "sessions": len(sessions)})


def _warm_up(runnable: Runnable, clock: Clock) -> _Warm:
    """Run until the medians of two windows agree, or the time for it is up."""
    start = clock()
    runnable.run()  # the first one loads, allocates and compiles: never part of a window
    runs, before = 1, math.inf
    while True:
        window: list[float] = []
        for _ in range(WINDOW):
            window.append(runnable.timed(1, clock))
            runs += 1
            if clock() - start >= WARMUP_S:
                break
        median = statistics.median(window)
        if clock() - start >= WARMUP_S or abs(median - before) <= STABLE * before < math.inf:
            fastest = min(window)  # the least disturbed one decides how many fill a sample
            repeats = math.ceil(SAMPLE_S / fastest) if fastest > 0 else 1000
            return _Warm(runs, max(1, repeats), median < SETTLE_S)
        before = median


def _sample(runnable: Runnable, warm: _Warm, clock: Clock) -> float:
    seconds = runnable.timed(warm.repeats, clock) / warm.repeats
    return max(seconds, 1e-12)  # a clock that did not move: ratios stay finite


def _half_width(values: Sequence[float]) -> float:
    """Half the 95 % interval of the median from order statistics, as a share of the median."""
    if len(values) < 6:  # no interval of 95 % exists
        return math.inf
    low, high = median_interval(values)
    return (high - low) / 2 / statistics.median(values)


def _enough(
    n: int, elapsed: float, spread: float, samples: int, min_seconds: float, max_seconds: float, precision: float
) -> bool:
    if n % 2 and n > 1 and elapsed < max_seconds:
        return False  # A B B A: whole rounds only
    if elapsed >= max_seconds or n >= MOST * samples:
        return True
    return n >= samples and elapsed >= min_seconds and spread <= precision


def _sampling(warm: _Warm, spread: float, precision: float, *, turns: bool) -> dict[str, Any]:
    return {
        "in_turns": turns,
        "inferences_per_sample": warm.repeats,
        "half_interval": round(spread, 5) if math.isfinite(spread) else None,
        "precise": spread <= precision,  # False: the time was up before the interval was narrow enough
    }


def _check(samples: int, min_seconds: float, max_seconds: float, precision: float) -> None:
    if samples < 1:
        raise BadInput(f"latency, 'samples': expected at least 1; got {samples}")
    if not 0 <= min_seconds <= max_seconds:
        raise BadInput(f"latency: expected 0 <= min_seconds <= max_seconds; got {min_seconds} and {max_seconds}")
    if not precision > 0:
        raise BadInput(f"latency, 'precision': expected a share > 0; got {precision}")
