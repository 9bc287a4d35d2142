"""Times inferences: warm-up until stable, two networks in turns, samples until the interval is narrow enough.

When enough samples are there, `sartor.measure.noise` judges the machine. On a noisy machine sampling continues, for up
to `LONGER` times the samples and seconds of the effort, and intervals are widened (`sartor.types.wide_interval`). Where
other processes interrupted this one, and one thread of this process does all the work, samples count the CPU time of
the process instead of wall time.

Single-threaded work stays on one core, denormal numbers are flushed to zero and the allocator keeps its memory
(`sartor.measure.pinning`).

Why the median of pairwise ratios: bursts of other work lengthen either side of a pair, so this median stays unbiased
where the ratio of medians, of quartiles or of minima does not, on simulated neighbours (`sartor bench noise`).
Scheduler slices about as long as an inference synchronise with it and shift every one of these statistics by up to
10 %; CPU time is not affected.
"""

from __future__ import annotations

import dataclasses
import gc
import math
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sartor.borrow import uncollected
from sartor.errors import BadInput
from sartor.measure.environment import usable_cores
from sartor.measure.noise import Moment, noise_verdict, pooled_verdict
from sartor.measure.pinning import denormals_flushed, memory_kept, pinned
from sartor.measure.runnable import Runnable
from sartor.types import Comparison, Effort, Latency, median_interval, wide_interval

Clock = Callable[[], float]  # seconds, from any beginning

LATENCY_EFFORT = Effort(precision=0.02, min_seconds=0.5, max_seconds=10.0)
COMPARE_EFFORT = Effort(precision=0.02, min_seconds=1.0, max_seconds=20.0, sessions=3)
SAMPLE_S = 1e-3  # one sample times several inferences where one inference is shorter than this
SETTLE_S = 0.5  # in turns: inferences shorter than this are first run once untimed, to fill the caches again
WINDOW = 5  # inferences in one window of the warm-up
STABLE = 0.05  # warm-up ends when the medians of two windows differ by less than this share
WARMUP_S = 3.0  # ... or after this time
MEASURED_SHARE = 0.2  # a session may be timed for this share of the seconds that its preparation took
MOST = 40  # samples at most, as a multiple of `Effort.samples`
LONGER = 2  # multiple of samples and seconds allowed on a noisy machine


@dataclass(frozen=True)
class _Warm:
    runs: int
    repeats: int  # inferences per sample
    settle: bool


def latency(
    runnable: Runnable,
    effort: Effort = LATENCY_EFFORT,
    *,
    clock: Clock = time.perf_counter,
    running: Clock = time.process_time,
) -> Latency:
    """Time one runnable.

    Args:
        runnable: see `sartor.measure.prepare`.
        effort: of the one session; its `sessions` are not looked at.
        clock: gives seconds of wall time; tests pass their own.
        running: gives seconds of CPU time of this process; tests pass their own.

    Returns:
        Seconds per inference (of `target.batch` examples), raw. The environment says under "sampling" how the samples
        were taken, and under "noise" how the machine was disturbed meanwhile.
    """
    return _timed((runnable,), effort, clock, running)[0]


def compare(
    original: Runnable,
    fitted: Runnable,
    effort: Effort = COMPARE_EFFORT,
    *,
    clock: Clock = time.perf_counter,
    running: Clock = time.process_time,
) -> Comparison:
    """Time two runnables in turns, A B B A, so that both see the same state of the machine.

    Args:
        original: the reference, A.
        fitted: what is compared with it, B; on the same target.
        effort: of the one session; samples are pairs, its precision is that of the median ratio, and its `sessions` are
            not looked at.
        clock: gives seconds of wall time; tests pass their own.
        running: gives seconds of CPU time of this process; tests pass their own.

    Returns:
        Samples in seconds per inference; sample i of both was taken side by side.

    Raises:
        BadInput: the two are on different targets.
    """
    if original.target != fitted.target:
        raise BadInput(
            f"compare: expected two runnables on one target; got {original.target} and {fitted.target}; "
            "prepare both alike"
        )
    return Comparison(*_timed((original, fitted), effort, clock, running))


def compare_afresh(
    original: Callable[[], Runnable],
    fitted: Callable[[], Runnable],
    effort: Effort = COMPARE_EFFORT,
    *,
    patience: float = 15.0,
    clock: Clock = time.perf_counter,
    running: Clock = time.process_time,
) -> Comparison:
    """Compare in several sessions, each with both put on the target anew, and pool their samples.

    A runtime decides anew in every session where its buffers and threads lie. That changes the speed of a small network
    by a few per cent, which the variance within one session does not show.

    Args:
        original: puts the reference on the target.
        fitted: puts what is compared with it on the same target.
        effort: at most so many sessions, each of this length; where preparing took long, `max_seconds` are more.
        patience: no further session begins after preparing both took longer than this, in seconds.
        clock: gives seconds of wall time.
        running: gives seconds of CPU time of this process.

    Returns:
        As many pairs of every session as the session with fewest has.

    Raises:
        BadInput: as `compare`.
    """
    sessions: list[Comparison] = []
    while len(sessions) < effort.sessions:
        begin = clock()
        with original() as a, fitted() as b:
            preparing = clock() - begin
            longest = max(effort.max_seconds, MEASURED_SHARE * preparing)
            one = dataclasses.replace(effort, max_seconds=longest)
            sessions.append(compare(a, b, one, clock=clock, running=running))
        if preparing > patience:
            break
    least = min(len(c.ratios) for c in sessions)
    return Comparison(_pooled([c.original for c in sessions], least), _pooled([c.fitted for c in sessions], least))


def _timed(runnables: Sequence[Runnable], effort: Effort, clock: Clock, running: Clock) -> list[Latency]:
    """One runnable, or two in turns; noise is judged by the samples of the first."""
    facts = runnables[0].facts()
    counted = all(r.own and r.target.threads == 1 for r in runnables)  # CPU time of this process is that of the work
    taken: list[list[float]] = [[] for _ in runnables]
    ran: list[list[float]] = [[] for _ in runnables]
    gc.collect()
    with ExitStack() as held:
        for r in runnables:
            held.enter_context(r.held())
        held.enter_context(uncollected())
        core = held.enter_context(pinned()) if counted else None
        own = all(r.own for r in runnables)
        flushed = own and held.enter_context(denormals_flushed())
        kept = own and held.enter_context(memory_kept())
        facts = {**facts, "pinned": core, "denormals_flushed": flushed, "memory_kept": kept}
        warm = [_warm_up(r, clock) for r in runnables]
        # both or neither: a settling run for one of the two changes the ratio by several per cent
        settle = len(runnables) > 1 and any(w.settle for w in warm)
        start, before, noise = clock(), Moment.now(), dict[str, Any]()
        limit, longer = effort, _longer(effort)
        while True:
            for k in range(len(runnables)) if len(taken[0]) % 2 == 0 else reversed(range(len(runnables))):
                if settle:
                    runnables[k].timed(1, clock)
                begin = running()
                taken[k].append(_sample(runnables[k], warm[k], clock))
                ran[k].append(max((running() - begin) / warm[k].repeats, 1e-12))
            spread = _half_width(ran if noise.get("interrupted") else taken, wide=bool(noise.get("why")))
            if not _enough(len(taken[0]), clock() - start, spread, limit):
                continue
            noise = noise_verdict(
                taken[0], ran[0] if counted else (), before, Moment.now(),
                threads=(runnables[0].target.threads or usable_cores()) if runnables[0].own else None,
            )  # fmt: skip
            if not noise["why"] or limit == longer:
                break
            limit = longer
    return [
        Latency(
            tuple(s), w.runs, r.target,
            {**facts, "sampling": _sampling(w, spread, limit.precision, turns=len(runnables) > 1), "noise": noise},
            tuple(x) if noise["interrupted"] else (),
        )
        for s, x, w, r in zip(taken, ran, warm, runnables)
    ]  # fmt: skip


def _longer(effort: Effort) -> Effort:
    """The effort on a noisy machine."""
    return dataclasses.replace(
        effort,
        samples=LONGER * effort.samples,
        min_seconds=LONGER * effort.min_seconds,
        max_seconds=LONGER * effort.max_seconds,
    )


def _pooled(sessions: Sequence[Latency], least: int) -> Latency:
    """The first `least` samples of every session, with the facts of the first session."""
    first = sessions[0]
    together = tuple(s for one in sessions for s in one.seconds[:least])
    running = tuple(s for one in sessions for s in one.times[:least]) if any(one.running for one in sessions) else ()
    noise = pooled_verdict([one.environment["noise"] for one in sessions])
    facts = {**first.environment, "noise": noise, "sessions": len(sessions)}
    return Latency(together, first.warmup, first.target, facts, running)


def _warm_up(runnable: Runnable, clock: Clock) -> _Warm:
    """Run until the medians of two windows agree, or for `WARMUP_S`."""
    start = clock()
    runnable.run()  # the first run loads, allocates and compiles: never part of a window
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
            fastest = min(window)  # the least disturbed run says how many inferences fill a sample
            repeats = math.ceil(SAMPLE_S / fastest) if fastest > 0 else 1000
            return _Warm(runs, max(1, repeats), median < SETTLE_S)
        before = median


def _sample(runnable: Runnable, warm: _Warm, clock: Clock) -> float:
    seconds = runnable.timed(warm.repeats, clock) / warm.repeats
    return max(seconds, 1e-12)  # positive even if the clock did not move, so that ratios stay finite


def _half_width(taken: Sequence[Sequence[float]], *, wide: bool) -> float:
    """Half the 95 % interval of the median, or of the median ratio of two, as a share of the median."""
    values = taken[0] if len(taken) == 1 else [b / a for a, b in zip(*taken)]
    if len(values) < 6:  # no interval of 95 % exists
        return math.inf
    low, high = wide_interval(values) if wide else median_interval(values)
    return (high - low) / 2 / statistics.median(values)


def _enough(n: int, elapsed: float, spread: float, effort: Effort) -> bool:
    if n % 2 and n > 1 and elapsed < effort.max_seconds:
        return False  # A B B A: whole rounds only
    if elapsed >= effort.max_seconds or n >= MOST * effort.samples:
        return True
    return n >= effort.samples and elapsed >= effort.min_seconds and spread <= effort.precision


def _sampling(warm: _Warm, spread: float, precision: float, *, turns: bool) -> dict[str, Any]:
    return {
        "in_turns": turns,
        "inferences_per_sample": warm.repeats,
        "half_interval": round(spread, 5) if math.isfinite(spread) else None,
        "precise": spread <= precision,  # False: max_seconds passed before the interval was narrow enough
    }
