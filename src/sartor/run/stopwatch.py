"""Times plans against the original on every target that a budget names, each plan once."""

from __future__ import annotations

import copy
import statistics
from dataclasses import replace
from typing import NamedTuple

from torch import nn

from sartor.allocate import Step
from sartor.cost import macs
from sartor.measure import compare_afresh, latency, parse_target, prepare, rehearsal_target, show_target
from sartor.measure.tables import Predictor
from sartor.run.subject import Subject
from sartor.run.table_latency import slowest_words
from sartor.surgery import cut
from sartor.types import Bounds, Comparison, Counts, Effort, Limit, Listener, Plan

NEAR = 0.1  # of a limit: within this share of it, one session of the runtime does not tell on which side a plan lies
_ROUND_S = 1.2  # of one session while searching: run-to-run variance is larger than what a longer session resolves
_CONFIRM_S = 4.0  # of one session that confirms the plan that was found
_SESSIONS = 3  # near a limit
_SURE = 0.02  # a noisy session is trusted if half its interval is at most this share of the ratio


class Timing(NamedTuple):
    """One plan that was timed."""

    plan: Plan
    ratio: float  # on the scale of `Stopwatch.goal`
    noisy: str  # how the machine was disturbed meanwhile, in words; "": it was not


class Stopwatch:
    """Measures the latency of plans as shares of the original's.

    Args:
        subject: the network, with the groups that may be cut.
        bounds: at least one of its limits is on latency.
        listener: receives every measurement as a line of progress.

    Attributes:
        goal: the tightest limit, as a share of the original's latency. Ratios of plans are scaled so that a plan at
            `goal` is exactly at the limit of the target that is hardest to meet.
        seen: every plan that was timed, in order.
        predictors: one for each limit, where latency is read from tables.
    """

    def __init__(self, subject: Subject, bounds: Bounds, listener: Listener):
        self.subject, self.limits, self.listener = subject, list(bounds.timed), listener
        self.allowed = [bounds.latency_ratio(x, 0.0 if x.relative else self._original_seconds(x)) for x in self.limits]
        self.goal = min(self.allowed)
        self.seen: list[Timing] = []
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
        other.seen, other._sessions = [], 1  # it only says where to begin
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
        ratios = [self._compared(smaller, x, noisy) for x in self.limits]
        predicted = self.predicted(plan.counts())
        self.tell(
            f"{self.macs_share(plan):.1%} of the MACs takes {', '.join(f'{r:.1%}' for r in ratios)} of the time"
            + (f", {predicted:.1%} was predicted" if predicted is not None else "")
        )
        ratio = self.goal * max(r / a for r, a in zip(ratios, self.allowed))
        self.seen.append(Timing(plan, ratio, "; ".join(dict.fromkeys(noisy))))
        return ratio

    def confirmed(self, plan: Plan) -> float:
        """The ratio of a plan that was timed before, from longer sessions.

        The earlier ratio made the plan be chosen, so it is biased towards the limit: it counts a quarter.
        """
        old = self.ratio(plan)
        self.seen = [row for row in self.seen if row.plan.keep != plan.keep]
        self._longest_s = _CONFIRM_S
        try:
            new = self.ratio(plan)
        finally:
            self._longest_s = _ROUND_S
        self.seen[-1] = self.seen[-1]._replace(ratio=(old + 3 * new) / 4)
        return self.seen[-1].ratio

    def trail(self) -> tuple[Step, ...]:
        """Every plan that was timed: share of the MACs, measured and predicted ratio, noise."""
        return tuple(
            Step(self.macs_share(x.plan), x.ratio, self.predicted(x.plan.counts()), x.noisy) for x in self.seen
        )

    def slowest_operators(self, plan: Plan) -> str:
        """A sentence: which operators take the time of a plan, on the target that is hardest to meet."""
        hardest = self.limits[self.allowed.index(self.goal)]
        return slowest_words(self.subject.model, self.subject.example, str(hardest.target), plan.counts())

    def _compared(self, smaller: nn.Module, limit: Limit, noisy: list[str]) -> float:
        """The ratio of one network on one target, from as many sessions as it needs.

        One session is enough far from the limit on a quiet machine. Near the limit, or on a noisy machine, more follow;
        if both hold and the interval is still wide, as many again. Noise is added to `noisy`, in words.
        """
        measured: list[Comparison] = []
        allowed = self.allowed[self.limits.index(limit)]

        def median_ratio(sessions: int) -> float:
            measured.append(
                compare_afresh(
                    lambda: prepare(self.subject.model, self.subject.example, str(limit.target)),
                    lambda: prepare(smaller, self.subject.example, str(limit.target)),
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
        return ratio

    def _original_seconds(self, limit: Limit) -> float:
        with prepare(self.subject.model, self.subject.example, str(limit.target)) as runnable:
            return latency(runnable).median_s


def _unsure(measured: Comparison) -> bool:
    """Whether the machine was noisy and the interval is too wide to rely on."""
    low, high = measured.interval
    return bool(measured.noisy) and (high - low) / 2 > _SURE * measured.ratio
