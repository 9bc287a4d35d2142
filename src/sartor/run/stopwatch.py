"""Times plans against the original on every target that a budget names, each plan once."""

from __future__ import annotations

import copy
import statistics
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from torch import nn

from sartor.allocate import Step
from sartor.cost import macs
from sartor.measure import Runnable, compare_afresh, latency, parse_target, prepare, rehearsal_target, show_target
from sartor.measure.tables import Predictor
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.run.table_latency import slowest_words
from sartor.surgery import cut
from sartor.types import Bounds, Comparison, Counts, Effort, Limit, Plan

NEAR = 0.1  # of a limit: within this share of it, one session of the runtime does not tell on which side a plan lies
_ROUND_S = 1.2  # of one session while searching: run-to-run variance is larger than what a longer session resolves
_CONFIRM_S = 4.0  # of one session that confirms the plan that was found
_SESSIONS = 3  # near a limit
_ALIKE = 0.02  # a network as delivered, and through the quick exporter, may differ by this share of the ratio
_SURE = 0.02  # a noisy session is trusted if half its interval is at most this share of the ratio


class Timing(NamedTuple):
    """One plan that was timed."""

    plan: Plan
    ratio: float  # on the scale of `Stopwatch.goal`
    upper: float  # end of the 95 % interval of the ratio
    noisy: str  # how the machine was disturbed meanwhile, in words; "": it was not


class _Ratio(NamedTuple):
    """Of one network on one target."""

    median: float
    upper: float


class Stopwatch:
    """Measures the latency of plans as shares of the original's.

    Args:
        subject: the network, with the groups that may be cut.
        bounds: at least one of its limits is on latency.
        context: its listener receives every measurement as a line of progress. Its delivery, if there is one, exports
            networks as they will be delivered: where the quick exporter fails, and to confirm a plan.

    Attributes:
        goal: the tightest limit, as a share of the original's latency. Ratios of plans are scaled so that a plan at
            `goal` is exactly at the limit of the target that is hardest to meet.
        seen: every plan that was timed, in order.
        predictors: one for each limit, where latency is read from tables.
    """

    def __init__(self, subject: Subject, bounds: Bounds, context: Context):
        self.subject, self.limits, self.listener = subject, list(bounds.timed), context.listener
        self.delivery = context.delivery
        self._as_delivered = False  # whether plans are timed as they would be delivered, or through the quick exporter
        self.allowed = [bounds.latency_ratio(x, 0.0 if x.relative else self._original_seconds(x)) for x in self.limits]
        self.goal = min(self.allowed)
        self.seen: list[Timing] = []
        self._earlier: list[Timing] = []  # through the quick exporter, which says something else than what is delivered
        self.predictors: list[Predictor] = []
        self._sessions, self._longest_s, self._prefix = _SESSIONS, _ROUND_S, ""

    def rehearsal(self) -> Stopwatch | None:
        """The same limits on targets that are ready at once and run much the same kernels; None: these are as quick."""
        targets = [parse_target(str(x.target)) for x in self.limits]
        quick = [show_target(rehearsal_target(t) or t) for t in targets]
        if quick == [show_target(t) for t in targets]:
            return None
        other = copy.copy(self)
        other.limits = [replace(x, target=name) for x, name in zip(self.limits, quick)]
        other.seen, other._sessions, other.delivery = [], 1, None  # it only says where to begin
        other._prefix = f"rehearsed on {', '.join(quick)}: "
        return other

    def tell(self, text: str) -> None:
        """Progress, marked where it is of a rehearsal."""
        self.listener.tell(self._prefix + text)

    def predicted(self, counts: Counts) -> float | None:
        """The ratio that tables predict, on the scale of `goal`; None: nothing was tabulated."""
        if not self.predictors:
            return None
        return self.goal * max(p.ratio(counts) / a for p, a in zip(self.predictors, self.allowed))

    def macs_share(self, plan: Plan) -> float:
        """MACs left, as a share of the original's."""
        return macs(self.subject.graph, plan.counts()) / self.subject.original.macs

    def ratio(self, plan: Plan) -> float:
        """Latency of a plan on the target that is hardest to meet, on the scale of `goal`."""
        for known in self.seen:
            if known.plan.keep == plan.keep:
                return known.ratio
        smaller = cut(self.subject.model, self.subject.graph, plan)
        noisy: list[str] = []
        measured = [self._compared(smaller, x, noisy) for x in self.limits]
        ratios = [m.median for m in measured]
        predicted = self.predicted(plan.counts())
        self.tell(
            f"{self.macs_share(plan):.1%} of the MACs takes {', '.join(f'{r:.1%}' for r in ratios)} of the time"
            + (f", {predicted:.1%} was predicted" if predicted is not None else "")
        )
        ratio, upper = (self.goal * max(m[k] / a for m, a in zip(measured, self.allowed)) for k in (0, 1))
        self.seen.append(Timing(plan, ratio, upper, "; ".join(dict.fromkeys(noisy))))
        return ratio

    def upper(self, plan: Plan) -> float:
        """The end of the 95 % interval of `ratio`."""
        self.ratio(plan)
        return next(row.upper for row in self.seen if row.plan.keep == plan.keep)

    def confirmed(self, plan: Plan) -> float:
        """The ratio of a plan that was timed before, from longer sessions, of the network as it will be delivered.

        The earlier ratio made the plan be chosen, so it is biased towards the limit: it counts a quarter. Where the
        network as delivered takes another share of the original's time than the quick exporter says, the earlier ratio
        counts nothing, and later plans are timed as delivered.
        """
        old, quick = self.ratio(plan), not self._as_delivered
        self.seen = [row for row in self.seen if row.plan.keep != plan.keep]
        self._longest_s, self._as_delivered = _CONFIRM_S, self.delivery is not None
        try:
            new = self.ratio(plan)
        finally:
            self._longest_s = _ROUND_S
            self._as_delivered = self.delivery is not None and not quick
        row = self.seen[-1]
        if self.delivery is not None and quick and abs(new / old - 1) > _ALIKE:
            self.tell(
                f"as delivered it takes {new / old:.3f} times what the quick exporter says; timed as delivered now"
            )
            self._earlier += self.seen[:-1]
            self.seen, self._as_delivered = [row], True
        else:
            shift = (old - new) / 4
            self.seen[-1] = row._replace(ratio=new + shift, upper=row.upper + shift)
        return self.seen[-1].ratio

    def trail(self) -> tuple[Step, ...]:
        """Every plan that was timed: share of the MACs, measured and predicted ratio, noise."""
        return tuple(
            Step(self.macs_share(x.plan), x.ratio, self.predicted(x.plan.counts()), x.noisy)
            for x in (*self._earlier, *self.seen)
        )

    def slowest_operators(self, plan: Plan) -> str:
        """A sentence: which operators take the time of a plan, on the target that is hardest to meet."""
        hardest = self.limits[self.allowed.index(self.goal)]
        return slowest_words(self.subject.model, self.subject.example, str(hardest.target), plan.counts())

    def _compared(self, smaller: nn.Module, limit: Limit, noisy: list[str]) -> _Ratio:
        """The ratio of one network on one target, from as many sessions as it needs.

        One session is enough far from the limit on a quiet machine. Near the limit, or on a noisy machine, more follow;
        if both hold and the interval is still wide, as many again. Noise is added to `noisy`, in words.
        """
        measured: list[Comparison] = []
        allowed = self.allowed[self.limits.index(limit)]
        target = str(limit.target)
        if self._as_delivered and self.delivery is not None:
            whole, trial = self.delivery.original_on(target), self.delivery.trial_on(smaller, target)
            original, fitted = (partial(a.prepared, self.subject.example) for a in (whole, trial))
        else:
            original, fitted = (partial(self._quick, m, target) for m in (self.subject.model, smaller))

        def median_ratio(sessions: int) -> float:
            measured.append(
                compare_afresh(
                    original, fitted,
                    Effort(sessions=sessions, precision=0.01, min_seconds=0.5, max_seconds=self._longest_s),
                )
            )  # fmt: skip
            return statistics.median(r for c in measured for r in c.ratios)

        ratio = median_ratio(1)
        near = lambda: abs(ratio / allowed - 1) <= NEAR
        if self._sessions > 1 and (near() or _unsure(measured[0])):
            ratio = median_ratio(self._sessions - 1)
            if near() and all(map(_unsure, measured)):
                ratio = median_ratio(self._sessions)
        reason = next((c.noisy for c in reversed(measured) if c.noisy), "")
        if reason:
            noisy.append(reason)
            self.tell(f"the machine was busy: {reason}; measured on")
        widest = measured[-1].interval[1] / measured[-1].ratio
        return _Ratio(ratio, ratio * widest)

    def _quick(self, model: nn.Module, target: str) -> Runnable:
        """A network on a target through the quick exporter; where that fails, a note says why."""
        runnable = prepare(model, self.subject.example, target)
        reason = getattr(runnable, "detail", {}).get("slow_because", "")
        if reason:
            self.listener.note(
                f"the quick exporter for {target} failed ({reason}); the search used the exporter that writes the files"
            )
            self._as_delivered = self.delivery is not None
        return runnable

    def _original_seconds(self, limit: Limit) -> float:
        example, target = self.subject.example, str(limit.target)
        delivery = self.delivery
        with (
            delivery.original_on(target).prepared(example)
            if delivery
            else self._quick(self.subject.model, target) as runnable
        ):
            return latency(runnable).median_s


def _unsure(measured: Comparison) -> bool:
    """Whether the machine was noisy and the interval is too wide to rely on."""
    low, high = measured.interval
    return bool(measured.noisy) and (high - low) / 2 > _SURE * measured.ratio
