"""A core shared with a neighbour, on a clock of its own: what a stopwatch measures there can be told from the truth."""

from __future__ import annotations

import math
import random

from sartor.measure import Runnable
from sartor.types import Target

SLICE = 0.004  # seconds the scheduler leaves the core to one of the two while both want it


class Neighbour:
    """Wants the core for `busy` seconds, then leaves it for `calm`; both are means of exponential times.

    While both want the core they have it in turns, `SLICE` each. Nothing here looks at real time.

    Args:
        busy: mean length of a busy spell in seconds; 0: there is no neighbour, infinite: it never leaves.
        calm: mean time between two of them.
        jitter: of the work itself, one standard deviation as a share.
        drift: by how much the work grows in a second, as a share.
    """

    def __init__(self, busy: float, calm: float, *, seed: int, jitter: float = 0.01, drift: float = 0.0):
        self.busy, self.calm, self.jitter, self.drift = busy, calm, jitter, drift
        self.random = random.Random(seed)
        self.now = self.ran = 0.0
        self.wants = math.isinf(busy)
        self.until = math.inf if self.wants or not busy else self._spell(calm)
        self.left = SLICE * self.random.random()

    def clock(self) -> float:
        """Seconds on the wall."""
        return self.now

    def running(self) -> float:
        """Seconds that the measured process had the core."""
        return self.ran

    def runnable(self, seconds: float, *, own: bool) -> Runnable:
        """An inference that takes so long where nobody disturbs it; `own`: `running` counts what it needs."""
        return Runnable(Target("eager", threads=1), lambda: self._work(seconds), own=own, facts=dict)

    def _work(self, seconds: float) -> None:
        left = seconds * max(0.0, self.random.gauss(1.0, self.jitter)) * (1 + self.drift * self.now)
        while left > 1e-12:
            if self.now >= self.until:
                self.wants = not self.wants
                self.until = self.now + self._spell(self.busy if self.wants else self.calm)
                self.left = SLICE * self.random.random()
            step = min(left, self.until - self.now, self.left if self.wants else math.inf)
            self.now, self.ran, left = self.now + step, self.ran + step, left - step
            if self.wants:
                self.left -= step
                if self.left <= 0:
                    self.now, self.left = self.now + SLICE * self.random.gauss(1.0, 0.1), SLICE

    def _spell(self, mean: float) -> float:
        return max(self.random.expovariate(1 / mean), 1e-6)
