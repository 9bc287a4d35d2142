"""A simulated CPU core that is shared with another process, so that measured times can be compared with true ones."""

from __future__ import annotations

import math
import random

from sartor.measure import Runnable
from sartor.types import Target

SLICE = 0.004  # seconds that the scheduler gives each process while both need the core


class Neighbour:
    """Another process that needs the core for `busy` seconds, then sleeps for `calm`; both are means of exponentials.

    While both processes need the core, they take turns of `SLICE` seconds. Time is simulated.

    Args:
        busy: mean length of a busy period in seconds; 0: there is no other process, infinite: it never sleeps.
        calm: mean time between two busy periods in seconds.
        jitter: relative standard deviation of the work itself.
        drift: relative growth of the work per second.
    """

    def __init__(self, busy: float, calm: float, *, seed: int, jitter: float = 0.01, drift: float = 0.0):
        self.busy, self.calm, self.jitter, self.drift = busy, calm, jitter, drift
        self.random = random.Random(seed)
        self.now = self.ran = 0.0
        self.wants = math.isinf(busy)
        self.until = math.inf if self.wants or not busy else self._spell(calm)
        self.left = SLICE * self.random.random()

    def clock(self) -> float:
        """Wall-clock seconds."""
        return self.now

    def running(self) -> float:
        """Seconds that the measured process had the core."""
        return self.ran

    def runnable(self, seconds: float, *, own: bool) -> Runnable:
        """An inference that takes `seconds` on an idle core; `own`: its CPU time is counted by `running`."""
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
