"""Whether other work disturbed the machine during a measurement: the evidence, and a verdict in words.

There are three kinds of evidence, each a few plain numbers:

- away: the share of the measured time in which this process did not run, although a single-threaded inference runs
  without a pause. Other processes or the hypervisor had its core then. Known only where one thread of this process
  does all the work (`Runnable.own`).
- others, steal: CPU time that other processes used, and that the hypervisor took, on the cores this process may use
  (/proc/stat). With several threads, other processes disturb when all of them together want more cores than there are.
- slow, drift: from the samples alone, so on any target: the share of samples that take over 25 % longer than the lower
  quartile (bursts), and how far the medians of the first, middle and last third are apart (a falling clock rate, other
  work that begins).
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartor.measure.environment import usable_cores
from sartor.types import median_interval

AWAY = 0.03  # share of the time above which `away` counts; timer ticks and kernel work take less than 1 %
CROWD = 0.25  # cores wanted beyond those there are; counters of a short measurement are accurate to about 0.1
STEAL = 0.03  # of a core
SLOWER = 1.25  # times the lower quartile: a slower sample was interrupted; caches vary less
SLOW = 0.1  # share of slow samples; fewer do not move a median
DRIFT = 0.05  # of the median; larger than the usual precision
LEAST_S = 0.3  # shorter measurements cannot use /proc/stat, which counts in steps of 10 ms
_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL = 0, 1, 2, 5, 6, 7  # columns of /proc/stat


@dataclass(frozen=True)
class Moment:
    """Counters of the system at one time; what cannot be read is None."""

    wall_s: float
    own_s: float  # CPU time of this process, all threads
    switches: int | None  # involuntary context switches of this process
    busy_s: float | None  # CPU time of all processes, on the cores this process may use
    steal_s: float | None  # time that the hypervisor took from these cores

    @classmethod
    def now(cls) -> Moment:
        """The counters as they stand."""
        busy, steal = _processors()
        return cls(time.perf_counter(), time.process_time(), _switches(), busy, steal)


def noise_verdict(
    seconds: Sequence[float], running: Sequence[float], before: Moment, after: Moment, *, threads: int | None
) -> dict[str, Any]:
    """The verdict on one measurement.

    Args:
        seconds: samples of the reference, in order.
        running: CPU time of this process during each sample; empty where the work is not that of one own thread.
        before: counters when the first sample began.
        after: counters when the last sample ended.
        threads: threads of this process that do the work on the CPU; None: the work is done elsewhere.

    Returns:
        {"why" (in words; "" on a quiet machine), "away", "slow", "drift" (shares), "others", "steal" (cores),
        "switches_per_s", "interrupted" (whether `away` exceeds its threshold)}; None for what cannot be known.
    """
    wall = after.wall_s - before.wall_s
    long_enough = wall >= LEAST_S
    rate = lambda a, b: (b - a) / wall if long_enough and a is not None and b is not None else None
    used, steal = rate(before.busy_s, after.busy_s), rate(before.steal_s, after.steal_s)
    mine = rate(before.own_s, after.own_s)
    others = None if used is None or mine is None else max(0.0, used - mine)
    away = max(0.0, 1 - sum(running) / sum(seconds)) if running else None
    slow, drift = slow_share(seconds), drift_share(seconds)
    cores = usable_cores()
    interrupted = away is not None and away > AWAY
    why = []
    if interrupted and away is not None:
        why.append(f"other work kept this process from running {100 * away:.0f} % of the time")
    elif threads is not None and threads > 1 and others is not None and others + min(threads, cores) > cores + CROWD:
        why.append(f"other processes used {others:.1f} of {cores} cores beside {threads} timed threads")
    elif threads is not None and steal is not None and steal > STEAL:
        why.append(f"the hypervisor took {100 * steal:.0f} % of a core")
    if slow > SLOW:
        why.append(f"{100 * slow:.0f} % of the samples took over a quarter longer than the fast ones")
    if drift > DRIFT:
        why.append(f"the speed changed by {100 * drift:.0f} % from one third of the samples to another")
    return {
        "why": "; ".join(why), "away": _rounded(away), "slow": _rounded(slow), "drift": _rounded(drift),
        "others": _rounded(others), "steal": _rounded(steal),
        "switches_per_s": _rounded(rate(before.switches, after.switches), 1), "interrupted": interrupted,
    }  # fmt: skip


def pooled_verdict(sessions: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The verdict on several sessions: that of the noisiest session, with the number of noisy sessions.

    >>> quiet, busy = ({"why": why, "away": None, "slow": 0.0} for why in ("", "a neighbour"))
    >>> pooled_verdict([quiet, busy])["why"]
    'in 1 of 2 sessions a neighbour'
    """
    noisy = [n for n in sessions if n["why"]]
    if not noisy:
        return dict(sessions[0])
    worst = max(noisy, key=lambda n: (n["away"] or 0.0) + n["slow"])
    where = "" if len(noisy) == len(sessions) else f"in {len(noisy)} of {len(sessions)} sessions "
    return {**worst, "why": where + worst["why"]}


def slow_share(seconds: Sequence[float]) -> float:
    """Share of the samples that take longer than `SLOWER` times the lower quartile.

    >>> slow_share([1.0, 1.1, 1.0, 9.0])
    0.25
    """
    ordered = sorted(seconds)
    bound = SLOWER * ordered[len(ordered) // 4]
    return sum(s > bound for s in ordered) / len(ordered)


def drift_share(seconds: Sequence[float]) -> float:
    """How far the medians of the three thirds are apart, as a share of the median of all.

    0 where the 95 % intervals of the fastest and the slowest third overlap: the difference is not significant.

    >>> drift_share([1.0] * 10 + [1.1] * 10 + [1.2] * 10)
    0.18181818181818177
    """
    third = len(seconds) // 3
    if third < 6:  # no interval of 95 % exists
        return 0.0
    thirds = sorted((seconds[:third], seconds[third : len(seconds) - third], seconds[-third:]), key=statistics.median)
    if median_interval(thirds[0])[1] >= median_interval(thirds[-1])[0]:
        return 0.0
    return (statistics.median(thirds[-1]) - statistics.median(thirds[0])) / statistics.median(seconds)


def _processors() -> tuple[float | None, float | None]:
    """(busy, stolen) seconds since the machine started, summed over the cores that this process may use."""
    try:
        mine = {f"cpu{i}" for i in os.sched_getaffinity(0)}
        lines = Path("/proc/stat").read_text(encoding="ascii").splitlines()
        tick = os.sysconf("SC_CLK_TCK")
        rows = [[int(v) for v in words[1:]] for line in lines if (words := line.split()) and words[0] in mine]
        busy = sum(row[i] for row in rows for i in (_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ))
        return (busy / tick, sum(row[_STEAL] for row in rows) / tick) if rows else (None, None)
    except (OSError, AttributeError, ValueError, IndexError):
        return None, None


def _switches() -> int | None:
    try:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    except ImportError:  # Windows
        return None


def _rounded(value: float | None, digits: int = 4) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)
