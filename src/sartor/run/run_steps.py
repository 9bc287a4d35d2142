"""The steps of one run: each calls a stage, and is one or two lines of the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sartor.budget import show_budget
from sartor.errors import BudgetNotMet, SartorError
from sartor.export.delivery import Delivery
from sartor.export.files import atomic_write
from sartor.measure import default_target, environment
from sartor.run import stages
from sartor.run.chance import beside_chance
from sartor.run.context import Context
from sartor.run.doubts import doubts, worse_than_chance
from sartor.run.folder import write_model
from sartor.run.kept_stages import (
    KeptStages,
    training_key,
)
from sartor.run.kept_values import decision_of, plain_decision, quality_of, repaired, repaired_values, scores_of
from sartor.run.outcome import Options
from sartor.run.record import (
    NOT_WRITTEN,
    AskedRow,
    JudgedQuality,
    LatencyRow,
    QualityRow,
    Record,
    Recorder,
    TrailRow,
    VerdictRow,
)
from sartor.run.record_rows import (
    frozen_rows,
    group_rows,
    latency_row,
    noise_note,
    not_measured_note,
    rewrite_note,
    score_name,
    slower_note,
)
from sartor.run.stages import Cut, Decision, Quality
from sartor.run.subject import Subject
from sartor.structure import Example
from sartor.train import History
from sartor.types import (
    Bounds,
    Budget,
    Comparison,
    Data,
    Effort,
    Plan,
    Recipe,
    Scores,
    Search,
    to_plain,
)
from sartor.wrappers import unwrapped, wrapper_note

TO_HOLD = Effort(sessions=6, precision=0.01, min_seconds=0.5, max_seconds=1.5)  # where a limit has to hold
TO_KNOW = Effort(sessions=2, precision=0.02, min_seconds=0.5, max_seconds=1.5)  # where nobody named a limit


@dataclass(frozen=True)
class RunSteps:
    """What the steps of one run share; each method is one or two lines of the record."""

    data: Data
    budget: Budget
    recipe: Recipe
    context: Context
    recorder: Recorder
    kept: KeptStages
    model_name: str
    options: Options

    @property
    def folder(self) -> Path | None:
        """The run folder."""
        return self.kept.folder

    def _judge_original(self, subject: Subject) -> Quality:
        """Quality of the original, and notes about what makes it meaningless."""

        def judged() -> Quality:
            quality = self._judged("judge the original", subject, subject.model)
            for sentence in doubts(subject.model, self.data, self.context.judge, quality.val):
                self.recorder.note(sentence)
            return quality

        return self.kept.stage("judge the original", judged, list, quality_of)

    def _check_targets(self, delivery: Delivery) -> None:
        """Put the original on every target of the budget before anything is computed."""
        for target in self._timed:
            with self.recorder.timed(f"try {target}"):
                delivery.check_target(target)

    @property
    def _timed(self) -> list[str]:
        """The targets of the budget."""
        return list(dict.fromkeys(str(x.target) for x in self.budget.limits if x.metric == "latency"))

    def _write(self, network: nn.Module, cut: Cut) -> dict[str, str]:
        """Write plan, edits and weights into the run folder, if there is one; {kind: file name}."""
        files: dict[str, str] = {}
        if self.folder:
            with self._kept_going("the network"), self.recorder.timed("write"):
                files = write_model(self.folder, network, cut.plan, cut.edits)
        return files

    @contextmanager
    def _kept_going(self, what: str) -> Iterator[None]:
        """A file that cannot be written becomes a note: the network is still in memory."""
        try:
            yield
        except SartorError as e:
            self.recorder.note(
                f"{NOT_WRITTEN}: {what} ({e}); the fitted network is in memory only: call fitted.save(folder)"
            )

    def _understand(self, model: nn.Module, example: Example, device: torch.device) -> Subject:
        with self.recorder.timed("understand") as facts:
            units = self.recipe.cut.kind == "axes"
            subject = stages.understand(model, example, device, self.recipe.rewrite, units=units)
            if wrappers := unwrapped(model).wrappers:
                self.recorder.note(wrapper_note(wrappers))
            if subject.reading:
                self.recorder.note(f"example inputs: {subject.reading}")
            if subject.lost_groups:
                self.recorder.note(f"{subject.lost_groups} groups cannot be cut in this class; the frozen axes say why")
            if subject.graph.rewritten:
                self.recorder.note(rewrite_note(subject.graph.rewritten))
            subject = subject.allowed(self.recipe)
            graph = subject.graph
            facts.update(groups=len(graph.groups), frozen=len(graph.frozen), operators=len(graph.ops))
        return subject

    def _decide(self, subject: Subject, delivery: Delivery) -> Decision:
        recipe, bounds, kept = self.recipe, self.budget.against(subject.original), self.kept

        def scored() -> Scores:
            with self.recorder.timed("score", score_name(recipe)):
                return stages.score(subject, recipe, bounds, self.context)

        scores = kept.stage("score", scored, dict, partial(scores_of, subject.graph))
        if isinstance(recipe.allocate, Search):
            tries = recipe.allocate.tries

            def searched() -> Scores:
                with self.recorder.timed("search", f"{tries} allocations") as facts:
                    found, facts["improved"] = stages.search(subject, recipe, scores, bounds, self.context)
                return found

            scores = kept.stage("search", searched, dict, partial(scores_of, subject.graph))
        return kept.stage(
            "decide", partial(self._decided, subject, scores, bounds, delivery), plain_decision,
            partial(decision_of, subject.graph),
        )  # fmt: skip

    def _decided(self, subject: Subject, scores: Scores, bounds: Bounds, delivery: Delivery) -> Decision:
        with self.recorder.timed("decide") as facts:
            try:
                context = replace(self.context, delivery=delivery)
                decision = stages.decide(subject, self.recipe, scores, bounds, context)
            except BudgetNotMet as e:
                if self.folder and isinstance(e.plan, Plan):
                    atomic_write(self.folder / "plan.best.json", e.plan.to_json())
                raise
            plan = decision.plan
            facts.update(kept=plan.counts(), trail=decision.trail, fibres=list(plan.fibres))
        return decision

    def _doubt_the_scores(self, subject: Subject, plan: Plan) -> None:
        """Note that random units would have been a better choice. A comparison that fails becomes a note, too."""
        if not subject.samples:
            return
        with self.recorder.timed("compare with random units") as facts:
            try:
                beside = beside_chance(subject, plan, self.recipe, self.context)
            except Exception as e:
                self.recorder.note(f"the scores were not compared with random ones: {type(e).__name__}: {e}")
                return
            if beside is not None:
                facts.update(chosen=beside.chosen, random=list(beside.random))
        if sentence := worse_than_chance(beside, score_name(self.recipe)):
            self.recorder.note(sentence)

    def _apply(self, subject: Subject, plan: Plan, masks: Mapping[str, Tensor] | None = None) -> Cut:
        with self.recorder.timed("prove") as facts:
            cut = stages.apply(subject, plan, masks)
            rewritten, verdict = list(cut.edits.programs), cut.verdict
            facts.update(rewritten=rewritten, **verdict.to_plain())
        unannounced = {p: cut.edits.programs[p].fixed for p in rewritten if p not in subject.graph.rewritten}
        if unannounced:
            self.recorder.note(rewrite_note(unannounced))
        if verdict.status != "exact":
            named = "; ".join(f"{name}: {why}" for name, why in verdict.left_out[:3])
            self.recorder.note(
                f"the function of {len(verdict.left_out)} cut groups was not compared with the original's ({named})"
            )
        return cut

    def _heal(self, subject: Subject, cut: Cut) -> nn.Module:
        if not subject.samples or not self.recipe.repairs:
            return cut.network

        def healed() -> nn.Module:
            with self.recorder.timed("repair") as facts:
                network, done = stages.heal(subject, cut.plan, cut.network, self.recipe, self.context)
                facts.update(done)
            return network

        return self.kept.stage("repair", healed, repaired_values, partial(repaired, cut.network))

    def _train(self, subject: Subject, network: nn.Module) -> History | None:
        epochs = self.recipe.training.epochs
        if not epochs:
            return None
        with self.recorder.timed("train", f"{epochs} epochs") as facts:
            history = stages.train(
                subject, network, self.recipe, self.data, self.context, lambda row: self.recorder.add("epoch", **row)
            )
            assert history is not None
            facts.update(last=history.last, chosen=history.best)
        self.kept.trained = True
        self.kept.key |= training_key(self.recipe)
        return history

    def _judge(self, step: str, subject: Subject, network: nn.Module, *, reported: bool = False) -> Quality:
        """Quality of a network; `reported`: by the judge's measure only, also where the user evaluates."""
        judge = self.context.judge
        if judge.evaluate is None and self.data.val is None and self.data.test is None:
            return Quality(None, None)
        return self.kept.stage(step, partial(self._judged, step, subject, network, reported=reported), list, quality_of)

    def _judged(self, step: str, subject: Subject, network: nn.Module, *, reported: bool = False) -> Quality:
        judge, data = self.context.judge, self.data
        if reported:
            return stages.judge(subject, network, Data(test=data.test), replace(judge, evaluate=None))
        with self.recorder.timed(step) as facts:
            quality = stages.judge(subject, network, data, judge)
            facts.update(val=quality.val, test=quality.test)
        return quality

    def _observe(
        self, subject: Subject, network: nn.Module, delivery: Delivery
    ) -> tuple[dict[str, Comparison], list[LatencyRow]]:
        """The delivered file against the original's on every target of the budget; if it names none, on a default one.

        By now the network is written. A timing that fails becomes a note, and a limit on it is "not measured".
        """
        comparisons: dict[str, Comparison] = {}
        rows: list[LatencyRow] = []
        limits = self._timed
        for target in limits or [default_target()]:
            try:
                with self.recorder.timed(f"measure on {target}") as facts:
                    measured = stages.deliver(network, target, TO_HOLD if limits else TO_KNOW, delivery)
                    facts.update(ratio=measured.ratio, interval=measured.interval)
                    file = delivery.file_for(network, target)
                    rows.append(latency_row(target, measured, file))
            except Exception as e:
                self.recorder.note(not_measured_note(target, e, self.folder, limited=bool(limits)))
                continue
            comparisons[target] = measured
            if measured.noisy:
                self.recorder.note(noise_note(target, measured))
            if measured.interval[0] > 1:
                self.recorder.note(slower_note(target, measured))
        return comparisons, rows

    def _record(
        self, subject: Subject, decision: Decision, cut: Cut, quality: Mapping[str, Quality], history: History | None
    ) -> Record:
        """Everything but the budget and what was counted or timed."""
        graph, plan = subject.graph, decision.plan
        val = {stage: q.val for stage, q in quality.items() if stage != "chosen_by_validation"}
        return Record(
            run=str(self.folder) if self.folder else None,
            model=self.model_name,
            recipe=self.recipe.name,
            status="not measured",
            budget=[],
            quality=JudgedQuality(metric=self.context.judge.metric, **val),
            test=QualityRow(**{stage: q.test for stage, q in quality.items()}),
            proof=VerdictRow(**cut.verdict.to_plain()),
            counted={},
            asked=AskedRow(budget=show_budget(self.budget), recipe=to_plain(self.recipe)),
            groups=group_rows(graph, plan),
            frozen=frozen_rows(graph),
            training=to_plain([dict(e) for e in history]) if history else [],
            chosen_epoch=history.best_epoch if history else None,
            trail=[TrailRow(**to_plain(s)) for s in decision.trail],
            environment=to_plain(environment()),
        )


__all__ = ["RunSteps"]
