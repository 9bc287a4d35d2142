"""One network fitted to a budget: the stages in order, each recorded as it ends."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sartor.borrow import device_of
from sartor.budget import show_budget
from sartor.cost import count
from sartor.errors import BadInput, BudgetNotMet, SartorError
from sartor.export.delivery import Delivery
from sartor.export.files import atomic_write
from sartor.folder_lock import held
from sartor.measure import default_target, environment
from sartor.run import stages
from sartor.run.analyses import analysed_rows, check_probes
from sartor.run.chance import beside_chance
from sartor.run.conditions import (
    check_example,
    check_limits,
    check_weights,
    checked_seed,
    one_at_a_time,
    usable_device,
)
from sartor.run.context import Context
from sartor.run.doubts import doubts, worse_than_chance
from sartor.run.folder import RECORD, new_folder, write_model, write_result
from sartor.run.outcome import Options, Outcome
from sartor.run.pruned_training import PrunedTraining
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
    slower_note,
    worst_status,
)
from sartor.run.session import TrainingSession
from sartor.run.stages import Cut, Decision, Quality
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.structure import Example
from sartor.train import History
from sartor.train.batch import split
from sartor.types import Batches, Budget, Comparison, Data, Effort, Judge, Plan, Recipe, to_plain
from sartor.version import version
from sartor.wrappers import unwrapped, wrapper_note

TO_HOLD = Effort(sessions=6, precision=0.01, min_seconds=0.5, max_seconds=1.5)  # where a limit has to hold
TO_KNOW = Effort(sessions=2, precision=0.02, min_seconds=0.5, max_seconds=1.5)  # where nobody named a limit


def run(model: nn.Module, data: Data, budget: Budget, recipe: Recipe, judge: Judge, options: Options) -> Outcome:
    """See `sartor.fit`. Meanwhile nobody else may write to the run folder, and other threads of this process wait."""
    with one_at_a_time():
        if options.out is None:
            return _run(model, data, budget, recipe, judge, options)
        sentences: list[str] = []
        with held(options.out, sentences.append):
            options = replace(options, notes=(*sentences, *options.notes))
            return _run(model, data, budget, recipe, judge, options)


def _run(model: nn.Module, data: Data, budget: Budget, recipe: Recipe, judge: Judge, options: Options) -> Outcome:
    inside = unwrapped(model).module
    check_weights(inside)
    folder = new_folder(options.out)
    recorder = Recorder(folder / RECORD if folder else None, options.listener)
    check_limits(budget)
    check_probes(options.analyse, data)
    example = options.example
    if example is None:
        example = _first_inputs(data.for_scores if data.for_scores is not None else data.val)
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
        fitting = Fitting(data, budget, recipe, Context(judge, seed, recorder), recorder, folder, name, options)
        return fitting.outcome(model, example, where)


@dataclass(frozen=True)
class Ending:
    """What a run has at the end, before it is timed and recorded."""

    original: nn.Module  # as the user passed it
    network: nn.Module
    quality: Mapping[str, Quality]
    delivery: Delivery
    files: dict[str, str]
    history: History | None = None
    weights: int = 0  # live ones, where weights are masked


@dataclass(frozen=True)
class Fitting:
    """What the steps of one run share; each method is one or two lines of the record."""

    data: Data
    budget: Budget
    recipe: Recipe
    context: Context
    recorder: Recorder
    folder: Path | None
    model_name: str
    options: Options

    def outcome(self, model: nn.Module, example: Example, device: torch.device) -> Outcome:
        """The whole run."""
        recorder, recipe = self.recorder, self.recipe
        subject = self._understand(model, example, device)
        if recipe.when.kind != "one-shot":
            return self._while_training(model, subject)
        delivery = Delivery(subject.model, subject.example, self.folder)
        self._check_targets(delivery)
        quality = {"original": self._judge("judge the original", subject, subject.model)}
        for sentence in doubts(subject.model, self.data, self.context.judge, quality["original"].val):
            recorder.note(sentence)
        subject = stages.with_samples(subject, self.data.for_scores, recipe.calibration)
        decision = self._decide(subject, delivery)
        cut = self._apply(subject, decision.plan)
        self._doubt_the_scores(subject, decision.plan)
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
        if history and repaired and before is not None and after is not None and not after >= before:
            recorder.note(
                f"training made quality worse, {before:.4g} to {after:.4g}: the repaired network is delivered"
            )
            network.load_state_dict(repaired)
            files, quality["final"] = self._write(network, cut), quality["after_repair"]
        if history and history.best_state is not None and self.data.test is not None:
            best = copy.deepcopy(network)
            best.load_state_dict(history.best_state)
            reported = replace(self.context.judge, evaluate=None)
            chosen = stages.judge(subject, best, Data(test=self.data.test), reported)
            quality["chosen_by_validation"] = Quality(None, chosen.test)
        return self._concluded(subject, decision, cut, Ending(model, network, quality, delivery, files, history))

    def _concluded(self, subject: Subject, decision: Decision, cut: Cut, end: Ending) -> Outcome:
        """The network timed, the record complete and written."""
        recorder, quality, files, delivery = self.recorder, end.quality, end.files, end.delivery
        latency, rows = self._observe(subject, end.network, delivery)
        analysis = analysed_rows(subject, end.network, self.data, self.options.analyse, recorder)
        fitted = replace(count(subject.graph, cut.plan.counts()), weights=end.weights)
        limits = budget_rows(self.budget.against(subject.original), fitted, latency, _drop(quality))
        counted = {"counted": counted_rows(subject.original, fitted)}
        record = self._record(subject, decision, cut, quality, end.history).model_copy(update=counted)
        if self.folder:
            files |= delivery.names(end.network)
        status = worst_status(limits)
        recorder.add("done", status=status)
        record = record.model_copy(
            update={
                "budget": limits, "status": status, "latency": rows, "analysis": analysis, "files": files,
                "notes": recorder.notes,
                "seconds": dict(recorder.seconds), "record": Record.steps(recorder.steps),
            }
        )  # fmt: skip
        if self.folder:
            with self._kept_going("result.json"):
                write_result(self.folder, record)
            record = record.model_copy(update={"notes": recorder.notes})
        best_state = end.history.best_state if end.history else None
        return Outcome(
            end.network, end.original, subject.example, cut.plan, cut.edits, cut.verdict, record, delivery, best_state
        )

    def _while_training(self, model: nn.Module, subject: Subject) -> Outcome:
        """A copy of the model is trained under the recipe's schedule, then cut."""
        before = self._judge("judge the original", subject, subject.model)
        network = copy.deepcopy(subject.model)
        training = PrunedTraining(self.budget, self.recipe, self.data, self.context)
        with self.recorder.timed("train", f"{self.recipe.training.epochs} epochs") as facts:
            session, history = training.run(
                network, subject.example, subject.model, lambda row: self.recorder.add("epoch", **row)
            )
            facts.update(last=history.last)
        session.given = model
        return self.finished(session, before, history)

    def finished(
        self, session: TrainingSession, before: Quality, history: History | None = None,
        average: nn.Module | None = None,
    ) -> Outcome:  # fmt: skip
        """The end of a run that pruned while it trained: cut, proof against the trained network, measurement."""
        subject, plan = session.finished_subject(average)
        self.recorder.add("while training", **session.course())
        delivery = Delivery(subject.model, subject.example, self.folder)
        masks = session.masks
        cut = self._apply(subject, plan, masks)
        after_cut = self._judge("judge the cut network", subject, cut.network)
        network = cut.network if masks else self._heal(subject, cut)  # of masked weights, nothing is missing
        network.eval()
        healed = after_cut if network is cut.network else self._judge("judge the repair", subject, network)
        files = self._write(network, cut)
        stages.verify_layout(cut, network)
        quality = {"original": before, "after_cut": after_cut, "after_repair": healed, "final": healed}
        end = Ending(
            session.given, network, quality, delivery, files, history, sum(int(m.sum()) for m in masks.values())
        )
        return self._concluded(subject, Decision(plan), cut, end)

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
        recipe, bounds = self.recipe, self.budget.against(subject.original)
        with self.recorder.timed("score", _score_name(recipe)):
            scores = stages.score(subject, recipe, bounds, self.context)
        if recipe.allocate.kind == "search":
            with self.recorder.timed("search", f"{recipe.allocate.tries} allocations") as facts:
                scores, facts["improved"] = stages.search(subject, recipe, scores, bounds, self.context)
        with self.recorder.timed("decide") as facts:
            try:
                decision = stages.decide(subject, recipe, scores, bounds, replace(self.context, delivery=delivery))
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
        if sentence := worse_than_chance(beside, _score_name(self.recipe)):
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
        with self.recorder.timed("repair") as facts:
            network, done = stages.heal(subject, cut.plan, cut.network, self.recipe, self.context)
            facts.update(done)
        return network

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
        return history

    def _judge(self, step: str, subject: Subject, network: nn.Module) -> Quality:
        judge = self.context.judge
        if judge.evaluate is None and self.data.val is None and self.data.test is None and network is not subject.model:
            return Quality(None, None)
        with self.recorder.timed(step) as facts:
            quality = stages.judge(subject, network, self.data, judge)
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


def _drop(quality: Mapping[str, Quality]) -> tuple[float, float] | None:
    """Quality of the original and of the result; None: it was not judged."""
    before, after = quality["original"].val, quality["final"].val
    return None if before is None or after is None else (before, after)


def _score_name(recipe: Recipe) -> str:
    how = recipe.score
    if how.kind != "criterion":
        return how.kind
    return str(getattr(how.criterion, "__name__", how.criterion))


def _first_inputs(batches: Batches | None) -> Example:
    if batches is None:
        raise BadInput("fit: expected example inputs or data; got neither (pass example=..., or a train or val loader)")
    for batch in batches:
        return split(batch)[0]
    raise BadInput("fit: the data loader gave no batch")


__all__ = ["Options", "Outcome", "Fitting", "check_limits", "run"]
