"""The stopwatch: warm-up until stable, interleaved turns, as many samples as the noise asks for.

When enough samples are there the machine is judged (`measure/noise.py`). Found noisy, it is measured on, for up to
`LONGER` times the samples and seconds asked for, and intervals are widened (`sartor.types.wide_interval`). Where other
work kept this process from running, and the work is done by one thread of it, the time that it ran is what counts.
Work of one thread stays on one core, numbers too small to matter count as zero (`measure/still.py`), and the warm-up
leaves caches, pages and the allocator as every later inference finds them.

Why so: bursts add time to either side of a pair, so the median of pairwise ratios keeps its place where the ratio of
medians, of quartiles, or of least samples does not, on simulated neighbours (`python bench/noise.py`); but slices of a
scheduler as long as an inference lock on to it, and move every one of these by up to a tenth. Not the time that it ran.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from sartor.borrow import uncollected
from sartor.errors import BadInput
from sartor.measure.environment import usable_cores
from sartor.measure.noise import Moment, judged, judged_together
from sartor.measure.pinning import denormals_flushed, memory_kept, pinned
from sartor.measure.runnable import Runnable
from sartor.types import Comparison, Latency, median_interval, wide_interval

Clock = Callable[[], float]  # seconds, from any beginning

SAMPLE_S = 1e-3  # shorter inferences are timed several at once
SETTLE_S = 0.5  # in turns, inferences shorter than this are run once untimed first, to have the caches to themselves
WINDOW = 5  # warm-up compares medians of this many inferences
STABLE = 0.05  # ... until they differ by less than this share
WARMUP_S = 3.0  # ... or this long has passed
WORTH = 0.2  # of the seconds that a session took to prepare may be spent on measuring it
MOST = 40  # at most this many times the samples asked for
LONGER = 2  # times everything asked for, on a noisy machine


@dataclass(frozen=True)
class _Effort:
    samples: int
    min_seconds: float
    max_seconds: float
    precision: float

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise BadInput(f"latency, 'samples': expected at least 1; got {self.samples}")
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise BadInput(
                f"latency: expected 0 <= min_seconds <= max_seconds; got {self.min_seconds} and {self.max_seconds}"
            )
        if not self.precision > 0:
            raise BadInput(f"latency, 'precision': expected a share > 0; got {self.precision}")

    def longer(self) -> _Effort:
        return _Effort(LONGER * self.samples, LONGER * self.min_seconds, LONGER * self.max_seconds, self.precision)


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
    running: Clock = time.process_time,
) -> Latency:
    """Time one runnable.

    Args:
        runnable: see `sartor.measure.prepare`.
        samples: at least this many are taken, unless the time is up.
        min_seconds: at least this long is measured.
        max_seconds: no new sample is begun after it (warm-up not included); `LONGER` times it on a noisy machine.
        precision: samples are added until half the 95 % interval of the median is at most this share of it.
        clock: gives seconds; tests pass their own.
        running: gives the seconds that this process ran; tests pass their own.

    Returns:
        Seconds per inference (of `target.batch` examples), raw; the environment says under "sampling" how they came,
        and under "noise" how the machine was meanwhile.
    """
    effort = _Effort(samples, min_seconds, max_seconds, precision)
    return _timed((runnable,), effort, clock, running)[0]


def compare(
    original: Runnable,
    fitted: Runnable,
    *,
    samples: int = 40,
    min_seconds: float = 1.0,
    max_seconds: float = 20.0,
    precision: float = 0.02,
    clock: Clock = time.perf_counter,
    running: Clock = time.process_time,
) -> Comparison:
    """Time two runnables in turns, A B B A, so that both meet the same moments of the machine.

    Args:
        original: the reference, A.
        fitted: what is compared with it, B; on the same target.
        samples: at least this many pairs are taken, unless the time is up.
        min_seconds: at least this long is measured.
        max_seconds: no new pair is begun after it (warm-up not included); `LONGER` times it on a noisy machine.
        precision: pairs are added until half the 95 % interval of the median ratio is at most this share of it.
        clock: gives seconds; tests pass their own.
        running: gives the seconds that this process ran; tests pass their own.

    Returns:
        Samples in seconds per inference; sample i of both was taken side by side.

    Raises:
        BadInput: the two are on different targets.
    """
    effort = _Effort(samples, min_seconds, max_seconds, precision)
    if original.target != fitted.target:
        raise BadInput(
            f"compare: expected two runnables on one target; got {original.target} and {fitted.target}; "
            "prepare both alike"
        )
    return Comparison(*_timed((original, fitted), effort, clock, running))


def _timed(them: Sequence[Runnable], effort: _Effort, clock: Clock, running: Clock) -> list[Latency]:
    """One runnable, or two in turns; noise is judged by the first one's samples."""
    facts = them[0].facts()
    counted = all(r.own and r.target.threads == 1 for r in them)
    taken: list[list[float]] = [[] for _ in them]
    ran: list[list[float]] = [[] for _ in them]
    gc.collect()
    with ExitStack() as held:
        for r in them:
            held.enter_context(r.held())
        held.enter_context(uncollected())
        core = held.enter_context(pinned()) if counted else None
        own = all(r.own for r in them)
        flushed = own and held.enter_context(denormals_flushed())
        kept = own and held.enter_context(memory_kept())
        facts = {**facts, "pinned": core, "denormals_flushed": flushed, "memory_kept": kept}
        warm = [_warm_up(r, clock) for r in them]
        settle = len(them) > 1 and any(w.settle for w in warm)  # both or neither: it moves a ratio by several per cent
        start, before, noise = clock(), Moment.now(), dict[str, Any]()
        most = effort.longer()
        while True:
            for k in range(len(them)) if len(taken[0]) % 2 == 0 else reversed(range(len(them))):
                if settle:
                    them[k].timed(1, clock)
                begin = running()
                taken[k].append(_sample(them[k], warm[k], clock))
                ran[k].append(max((running() - begin) / warm[k].repeats, 1e-12))
            spread = _half_width(ran if noise.get("interrupted") else taken, wide=bool(noise.get("why")))
            if not _enough(len(taken[0]), clock() - start, spread, effort):
                continue
            noise = judged(
                taken[0], ran[0] if counted else (), before, Moment.now(),
                own=them[0].own, threads=them[0].target.threads or usable_cores(),
            )  # fmt: skip
            if not noise["why"] or effort == most:
                break
            effort = most
    return [
        Latency(
            tuple(s), w.runs, r.target,
            {**facts, "sampling": _sampling(w, spread, effort.precision, turns=len(them) > 1), "noise": noise},
            tuple(x) if noise["interrupted"] else (),
        )
        for s, x, w, r in zip(taken, ran, warm, them)
    ]  # fmt: skip


def compare_afresh(
    original: Callable[[], Runnable],
    fitted: Callable[[], Runnable],
    *,
    sessions: int = 3,
    patience: float = 15.0,
    clock: Clock = time.perf_counter,
    running: Clock = time.process_time,
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
        running: gives the seconds that this process ran.
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
            found.append(compare(a, b, clock=clock, running=running, **_worth(effort, preparing)))
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
    running = tuple(s for one in sessions for s in one.times[:least]) if any(one.running for one in sessions) else ()
    noise = judged_together([one.environment["noise"] for one in sessions])
    facts = {**first.environment, "noise": noise, "sessions": len(sessions)}
    return Latency(together, first.warmup, first.target, facts, running)


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


def _half_width(taken: Sequence[Sequence[float]], *, wide: bool) -> float:
    """Half the 95 % interval of the median, or of the median ratio of two, as a share of the median."""
    values = taken[0] if len(taken) == 1 else [b / a for a, b in zip(*taken)]
    if len(values) < 6:  # no interval of 95 % exists
        return math.inf
    low, high = wide_interval(values) if wide else median_interval(values)
    return (high - low) / 2 / statistics.median(values)


def _enough(n: int, elapsed: float, spread: float, effort: _Effort) -> bool:
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
        "precise": spread <= precision,  # False: the time was up before the interval was narrow enough
    }
