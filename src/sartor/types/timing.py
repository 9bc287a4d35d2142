"""Latency: where it is measured, raw samples, two networks compared, and how much effort to spend."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sartor.errors import BadInput

LimitStatus = Literal["met", "within noise", "missed", "not measured"]  # of one limit, or of a whole budget
SECTIONS = 10  # of samples taken on a noisy machine, at least; see `wide_interval`


@dataclass(frozen=True)
class Target:
    """Where latency is true."""

    backend: str  # "eager", "compile", "onnxruntime", ...; or the name or path of a file that describes the target
    device: str = "cpu"  # "": the backend is such a file
    threads: int = 0  # 0: as many as the machine has
    batch: int = 1
    dtype: str = "float32"

    @property
    def name(self) -> str:
        """As written in a budget: "onnxruntime-cpu", or "boards/pi.toml"."""
        return f"{self.backend}-{self.device}" if self.device else self.backend


@dataclass(frozen=True)
class Latency:
    """Raw samples of one artefact on one target.

    On a machine where other work had the core for part of the time, `running` says how long of every sample the process
    ran, and what is derived is derived from that; everywhere else it is empty.
    """

    seconds: tuple[float, ...]  # by the clock on the wall
    warmup: int
    target: Target
    environment: Mapping[str, Any] = field(default_factory=dict)
    running: tuple[float, ...] = ()

    @property
    def times(self) -> tuple[float, ...]:
        """`running` where it is known, else `seconds`."""
        return self.running or self.seconds

    @property
    def median_s(self) -> float:
        """Median of the times, in seconds."""
        return statistics.median(self.times)

    @property
    def iqr_s(self) -> float:
        """Interquartile range of the times, in seconds."""
        q = statistics.quantiles(self.times, n=4) if len(self.times) > 1 else [0.0, 0.0, 0.0]
        return q[2] - q[0]

    @property
    def noisy(self) -> str:
        """How the machine was disturbed meanwhile, in words; "" where it was quiet, or where nobody looked."""
        return str((self.environment.get("noise") or {}).get("why", ""))


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """A 95 % confidence interval of the median, from order statistics; of fewer than six values, all of their range."""
    ordered, n = sorted(values), len(values)
    half = 1.96 * math.sqrt(n) / 2
    return ordered[max(0, math.floor(n / 2 - half) - 1)], ordered[min(n - 1, math.ceil(n / 2 + half))]


def wide_interval(values: Sequence[float], sessions: int = 1) -> tuple[float, float]:
    """A 95 % confidence interval of the median of values that hang together in time; at least `median_interval`.

    Order statistics count every value as news, but a burst slows many neighbours. So the values, in the order they were
    taken, are cut into at least ten sections, none of which spans two sessions, and the spread of the sections' medians
    about the median of all gives the interval, by Student's t; never beyond the values themselves.

    Source: sectioning; Asmussen and Glynn 2007, Stochastic Simulation, III.5a; for quantiles Nakayama 2014,
    doi:10.1145/2558328.

    Args:
        values: of all sessions, as many of each.
        sessions: how many.

    >>> steady, burst = [1.0, 1.1, 1.2] * 25, [3.0] * 15
    >>> median_interval(steady + burst)
    (1.1, 1.2)
    >>> [round(x, 2) for x in wide_interval(steady + burst)]
    [1.0, 1.74]
    """
    low, high = median_interval(values)
    each = math.ceil(SECTIONS / sessions)
    length = len(values) // sessions
    each = min(each, length)
    if each * sessions < 2:
        return low, high
    from scipy.special import stdtrit

    middle = statistics.median(values)
    cuts = [k * length + i * length // each for k in range(sessions) for i in range(each)] + [len(values)]
    off = [statistics.median(values[a:b]) - middle for a, b in itertools.pairwise(cuts)]
    half = float(stdtrit(len(off) - 1, 0.975)) * math.sqrt(sum(x * x for x in off) / (len(off) - 1) / len(off))
    return max(min(values), min(low, middle - half)), min(max(values), max(high, middle + half))


@dataclass(frozen=True)
class Comparison:
    """Two artefacts timed in turns on one target; sample i of both was taken side by side."""

    original: Latency
    fitted: Latency

    @property
    def ratios(self) -> tuple[float, ...]:
        """fitted / original, pair by pair."""
        return tuple(f / o for o, f in zip(self.original.times, self.fitted.times))

    @property
    def ratio(self) -> float:
        """Median of the pairwise ratios."""
        return statistics.median(self.ratios)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the median ratio.

        On a noisy machine, and of several sessions, it is the wide one: pairs of one session resemble each other.
        """
        sessions = int(self.original.environment.get("sessions", 1))
        wide = bool(self.noisy) or sessions > 1
        return wide_interval(self.ratios, sessions) if wide else median_interval(self.ratios)

    def against(self, limit: float) -> LimitStatus:
        """Whether the ratio is at most `limit`, by its interval: wholly at or below it, around it, or wholly above."""
        low, high = self.interval
        return "met" if high <= limit else "missed" if low > limit else "within noise"

    @property
    def noisy(self) -> str:
        """How the machine was disturbed meanwhile, in words; "" where it was quiet."""
        return self.original.noisy or self.fitted.noisy


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard to measure a latency: sampling goes on until `samples`, `min_seconds` and `precision` are all reached.

    Raises:
        BadInput: a value is outside its range.
    """

    sessions: int = 1  # in each, the networks are put on the target anew; the samples of all are pooled
    precision: float = 0.01  # half the 95 % interval of the median, as a share of the median, at most
    min_seconds: float = 0.5  # of one session, at least
    max_seconds: float = 1.5  # no new sample begins after it; twice as long on a noisy machine; warm-up not included
    samples: int = 40  # of one session, at least, unless `max_seconds` have passed

    def __post_init__(self) -> None:
        for name in ("sessions", "samples"):
            if getattr(self, name) < 1:
                raise BadInput(f"effort, {name!r}: expected at least 1; got {getattr(self, name)}")
        if not 0 <= self.min_seconds <= self.max_seconds:
            raise BadInput(
                f"effort: expected 0 <= min_seconds <= max_seconds; got {self.min_seconds} and {self.max_seconds}"
            )
        if not self.precision > 0:
            raise BadInput(f"effort, 'precision': expected a share > 0; got {self.precision}")
