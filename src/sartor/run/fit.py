"""One network fitted to a budget: the stages in order, each recorded as it ends."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from sartor.borrow import device_of
from sartor.budget import show_budget
from sartor.cost import count
from sartor.errors import BadInput, BudgetNotMet, SartorError
from sartor.export.delivery import Delivery
from sartor.export.files import atomic_write
from sartor.folder_lock import held
from sartor.measure import default_target, environment
from sartor.run import stages
from sartor.run.chance import beside_chance
from sartor.run.conditions import (
    check_example,
    check_limits,
    check_weights,
    checked_seed,
    first_inputs,
    one_at_a_time,
    usable_device,
)
from sartor.run.context import Context
from sartor.run.doubts import doubts, worse_than_chance
from sartor.run.folder import RECORD, check_unfinished, new_folder, write_model, write_result
from sartor.run.kept_stages import (
    KeptStages,
    batches_key,
    data_key,
    mark_incomplete,
    network_key,
    request_key,
    training_key,
    unfinished,
)
from sartor.run.kept_values import NOTHING, decision_of, plain_decision, quality_of, scores_of, tensors_of, with_tensors
from sartor.run.outcome import Options, Outcome
from sartor.run.record import (
    FORMAT,
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
    budget_rows,
    counted_rows,
    frozen_rows,
    group_rows,
    latency_row,
    noise_note,
    not_measured_note,
    rewrite_note,
    score_name,
    slower_note,
    worst_status,
)
from sartor.run.stages import Cut, Decision, Quality
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.structure import Example
from sartor.train import History
from sartor.types import (
    Bounds,
    Budget,
    Comparison,
    Data,
    Effort,
    Judge,
    Plan,
    Recipe,
    Scores,
    Search,
    to_plain,
)
from sartor.version import version
from sartor.wrappers import unwrapped, wrapper_note

TO_HOLD = Effort(sessions=6, precision=0.01, min_seconds=0.5, max_seconds=1.5)  # where a limit has to hold
TO_KNOW = Effort(sessions=2, precision=0.02, min_seconds=0.5, max_seconds=1.5)  # where nobody named a limit


def run(model: nn.Module, data: Data, budget: Budget, recipe: Recipe, judge: Judge, options: Options) -> Outcome:
    """See `sartor.fit`. Meanwhile nobody else may write to the run folder, and other threads of this process wait.

    A run in the same folder that was interrupted is continued if it was asked for the same; see `KeptStages`.
    """
    with one_at_a_time():
        if options.out is None:
            return _run(model, data, budget, recipe, judge, options)
        folder = Path(options.out)
        sentences: list[str] = []
        with held(folder, sentences.append):
            check_unfinished(folder)
            options = replace(options, notes=(*sentences, *options.notes))
            with unfinished(folder):
                return _run(model, data, budget, recipe, judge, options)


def _run(model: nn.Module, data: Data, budget: Budget, recipe: Recipe, judge: Judge, options: Options) -> Outcome:
    inside = unwrapped(model).module
    check_weights(inside)
    folder = new_folder(options.out)
    recorder = Recorder(folder / RECORD if folder else None, options.listener)
    check_limits(budget)
    example = options.example
    if example is None:
        example = first_inputs(data.for_scores if data.for_scores is not None else data.val)
    check_example(example)
    if budget.max_drop is not None and data.val is None and judge.evaluate is None:
        raise BadInput("budget 'drop': quality can only be limited where it is measured; pass val=... or evaluate=...")
    if recipe.training.epochs and data.train is None:
        raise BadInput(f"recipe {recipe.name!r} trains for {recipe.training.epochs} epochs; pass train=...")
    seed = checked_seed(recipe.seed if options.seed is None else options.seed)
    where = usable_device(options.device) if options.device is not None else device_of(inside)
    recorder.add(
        "asked", format=FORMAT, sartor=version(), budget=show_budget(budget), recipe=recipe, seed=seed,
        device=str(where), environment=environment(),
    )  # fmt: skip
    for sentence in options.notes:
        recorder.note(sentence)
    with seeded(seed), torch.random.fork_rng(devices=[]):
        name = options.model_name or type(inside).__name__
        kept = KeptStages(folder, recorder, data, request_key(recipe, show_budget(budget), seed, where, judge))
        context = Context(judge, seed, recorder, checkpoints=kept.checkpoints(recipe))
        fitting = _Fitting(data, budget, recipe, context, recorder, kept, name, options)
        return fitting.outcome(model, example, where)


@dataclass(frozen=True)
class _Fitting:
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

    def outcome(self, model: nn.Module, example: Example, device: torch.device) -> Outcome:
        recorder, recipe, kept = self.recorder, self.recipe, self.kept
        subject = self._understand(model, example, device)
        if self.folder:
            kept.key |= network_key(subject.model, subject.graph.fingerprint) | data_key(self.data)
        delivery = Delivery(subject.model, subject.example, self.folder)
        self._check_targets(delivery)
        quality = {"original": self._judge_original(subject)}
        subject = stages.with_samples(subject, self.data.for_scores, recipe.calibration)
        if self.folder:
            kept.key |= batches_key("calibration data", subject.samples)
        decision = self._decide(subject, delivery)
        cut = self._apply(subject, decision.plan)
        kept.stage("compare with random units", lambda: self._doubt_the_scores(subject, decision.plan), *NOTHING)
        quality["after_cut"] = self._judge("judge the cut network", subject, cut.network)
        network = self._heal(subject, cut)
        quality["after_repair"] = self._judge("judge the repair", subject, network)
        if recipe.training.epochs:
            self._write(network, cut)  # training may fail, or be interrupted
        repaired = copy.deepcopy(network.state_dict()) if self.options.keep_better else {}
        history = self._train(subject, network)
        network.eval()
        files = self._write(network, cut)
        stages.verify_layout(cut, network)
        quality["final"] = self._judge("judge the result", subject, network) if history else quality["after_repair"]
        before, after = quality["after_repair"].val, quality["final"].val
        if history and before is not None and after is not None and not after >= before:
            worse = f"training made quality worse, {before:.4g} to {after:.4g}"
            if repaired:
                recorder.note(f"{worse}: the repaired network is delivered")
                network.load_state_dict(repaired)
                files, quality["final"] = self._write(network, cut), quality["after_repair"]
            else:
                recorder.note(f"{worse}: the trained network is delivered, since training was asked for")
        if history and history.best_state is not None and self.data.test is not None:
            best = copy.deepcopy(network)
            best.load_state_dict(history.best_state)
            reported = Quality(None, self._judge("judge the chosen epoch", subject, best, reported=True).test)
            quality["chosen_by_validation"] = reported
        latency, rows = self._observe(subject, network, delivery)
        limits = budget_rows(
            self.budget.against(subject.original), count(subject.graph, cut.plan.counts()), latency, _drop(quality)
        )
        record = self._record(subject, decision, cut, quality, history)
        if self.folder:
            files |= delivery.names(network)
        status = worst_status(limits)
        recorder.add("done", status=status)
        record = record.model_copy(
            update={
                "budget": limits, "status": status, "latency": rows, "files": files, "notes": recorder.notes,
                "seconds": dict(recorder.seconds), "record": Record.steps(recorder.steps),
            }
        )  # fmt: skip
        if self.folder:
            with self._kept_going("result.json"):
                write_result(self.folder, record)
            if any(note.startswith(NOT_WRITTEN) for note in recorder.notes):
                mark_incomplete(self.folder)
            record = record.model_copy(update={"notes": recorder.notes})
        best_state = history.best_state if history else None
        return Outcome(network, model, subject.example, cut.plan, cut.edits, cut.verdict, record, delivery, best_state)

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
            subject = stages.understand(model, example, device, self.recipe.cut.rewrite)
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

    def _apply(self, subject: Subject, plan: Plan) -> Cut:
        with self.recorder.timed("prove") as facts:
            cut = stages.apply(subject, plan)
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

        return self.kept.stage("repair", healed, tensors_of, partial(with_tensors, cut.network))

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
        """Everything but the budget and what was timed."""
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
            counted=counted_rows(subject.original, count(graph, plan.counts())),
            asked=AskedRow(budget=show_budget(self.budget), recipe=to_plain(self.recipe)),
            groups=group_rows(graph, plan),
            frozen=frozen_rows(graph),
            training=to_plain([dict(e) for e in history]) if history else [],
            chosen_epoch=history.best_epoch if history else None,
            trail=[TrailRow(**to_plain(s)) for s in decision.trail],
            environment=to_plain(environment()),
        )


def _drop(quality: Mapping[str, Quality]) -> tuple[float, float] | None:
    """Quality of the original and of the result; None: it was not judged."""
    before, after = quality["original"].val, quality["final"].val
    return None if before is None or after is None else (before, after)


__all__ = ["Options", "Outcome", "check_limits", "run"]
