"""Budgets: limits on costs, and what they allow once the costs of the original network are known."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sartor.errors import BadInput

METRICS = ("macs", "flops", "params", "bytes", "memory", "weights", "latency")


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
    """Limits on cost, and the largest loss of quality that is accepted (in points of the metric)."""

    limits: tuple[Limit, ...]
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            raise BadInput("a budget needs at least one limit on cost, such as 'macs<=50%'; got none")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise BadInput(f"budget 'drop': expected points >= 0; got {self.max_drop}")

    def against(self, original: Counted) -> Bounds:
        """What the budget allows, once the costs of the original network are known."""
        return Bounds(self, original)


@dataclass(frozen=True)
class Counted:
    """Costs that are counted, not timed."""

    macs: int  # multiply-accumulates of one forward of the example batch
    params: int  # elements of parameters, tied ones once
    bytes: int  # of parameters and buffers as they lie in memory
    memory: int  # peak bytes of activations alive at once in one forward of the example batch
    weights: int = 0  # live weights of the matrices that a recipe masks; 0: none masks any

    @property
    def flops(self) -> int:
        """Two for every multiply-accumulate."""
        return 2 * self.macs

    def get(self, metric: str) -> float:
        """The value of a counted metric by name."""
        return float(getattr(self, metric))


@dataclass(frozen=True)
class Bounds:
    """A budget beside the costs of the original network: every limit in its own unit, interpreted in one place."""

    budget: Budget
    original: Counted

    @property
    def counted(self) -> tuple[Limit, ...]:
        """The limits on costs that are counted."""
        return tuple(x for x in self.budget.limits if x.metric != "latency")

    @property
    def timed(self) -> tuple[Limit, ...]:
        """The limits on latency."""
        return tuple(x for x in self.budget.limits if x.metric == "latency")

    def at_most(self, limit: Limit) -> float:
        """A counted limit in its own unit: operations, elements or bytes."""
        return limit.at_most * self.original.get(limit.metric) if limit.relative else limit.at_most

    def latency_ratio(self, limit: Limit, original_s: float) -> float:
        """A latency limit as a share of the original's latency, which is `original_s` seconds on the target."""
        return limit.at_most if limit.relative else limit.at_most / original_s

    def holds(self, limit: Limit, fitted: Counted) -> bool:
        """Whether a network with these costs meets a counted limit."""
        return fitted.get(limit.metric) <= self.at_most(limit)

    def drop_holds(self, before: float, after: float) -> bool:
        """Whether a change of quality, in points, is within what the budget allows."""
        return self.budget.max_drop is None or before - after <= self.budget.max_drop

    @property
    def macs_share(self) -> float | None:
        """The least share of the MACs that a limit leaves; a relative limit on latency counts as one on MACs.

        None: no limit speaks of MACs, FLOPs or relative latency.
        """
        shares = [x.at_most for x in self.timed if x.relative]
        for x in self.counted:
            if x.metric in ("macs", "flops"):
                shares.append(x.at_most if x.relative else x.at_most / self.original.get(x.metric))
        return min(shares, default=None)
