"""Budgets: limits on costs, and what they allow once the costs of the original network are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sartor.errors import BadInput

METRICS = ("macs", "flops", "params", "bytes", "memory", "latency")


@dataclass(frozen=True)
class Limit:
    """One line of a budget: metric <= at_most."""

    metric: str  # one of METRICS
    at_most: float  # share of the original when relative, else a count, bytes or seconds
    relative: bool
    target: str | None = None  # where latency is measured

    def __post_init__(self) -> None:
        if self.metric not in METRICS:
            raise BadInput(f"budget metric: expected one of {', '.join(METRICS)}; got {self.metric!r}")
        if not (math.isfinite(self.at_most) and self.at_most > 0):
            raise BadInput(f"budget limit for {self.metric}: expected a positive number; got {self.at_most}")
        if self.relative and self.at_most > 1:
            raise BadInput(
                f"budget limit for {self.metric}: expected at most 100 % of the original; got {100 * self.at_most:g} %"
            )
        if (self.metric == "latency") != (self.target is not None):
            raise BadInput(
                "a latency limit names its target and no other limit does: 'latency<=60% @ onnxruntime-cpu'; "
                f"got metric {self.metric!r} with target {self.target!r}"
            )


@dataclass(frozen=True)
class Budget:
    """What is asked for: limits on cost, and how much quality may be lost at most (in points of the metric)."""

    limits: tuple[Limit, ...]
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            raise BadInput("a budget needs at least one limit on cost, such as 'macs<=50%'; got none")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise BadInput(f"budget 'drop': expected points >= 0; got {self.max_drop}")


@dataclass(frozen=True)
class Counted:
    """Costs that are counted, not timed."""

    macs: int  # multiply-accumulates of one forward of the example batch
    params: int  # elements of parameters, tied ones once
    bytes: int  # of parameters and buffers as they lie in memory
    memory: int  # peak bytes of activations alive at once in one forward of the example batch

    @property
    def flops(self) -> int:
        """Two for every multiply-accumulate."""
        return 2 * self.macs

    def get(self, metric: str) -> float:
        """The value of a counted metric by name."""
        return float(getattr(self, metric))
