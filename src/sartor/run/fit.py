"""One network fitted to a budget: the stages in order, each recorded as it ends."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from sartor.borrow import device_of, unchanged
from sartor.budget import show_budget
from sartor.cost import count
from sartor.errors import BadInput
from sartor.export.delivery import Delivery
from sartor.folder_lock import held
from sartor.measure import environment
from sartor.run import stages
from sartor.run.analyses import analysed_rows, check_probes
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
from sartor.run.folder import RECORD, check_unfinished, new_folder, write_result
from sartor.run.kept_stages import (
    KeptStages,
    batches_key,
    data_key,
    mark_incomplete,
    network_key,
    request_key,
    unfinished,
)
from sartor.run.kept_values import NOTHING
from sartor.run.outcome import Options, Outcome
from sartor.run.pruned_training import PrunedTraining
from sartor.run.record import (
    FORMAT,
    NOT_WRITTEN,
    Record,
    Recorder,
)
from sartor.run.record_rows import (
    budget_rows,
    counted_rows,
    worst_status,
)
from sartor.run.run_steps import RunSteps
from sartor.run.session import TrainingSession
from sartor.run.stages import Cut, Decision, Quality
from sartor.run.subject import Subject
from sartor.seed import kept_states, seeded
from sartor.structure import Example
from sartor.train import History
from sartor.types import (
    Budget,
    Data,
    Judge,
    Recipe,
)
from sartor.version import version
from sartor.wrappers import unwrapped


def run(model: nn.Module, data: Data, budget: Budget, recipe: Recipe, judge: Judge, options: Options) -> Outcome:
    """See `sartor.fit`. Meanwhile nobody else may write to the run folder, and other threads of this process wait.

    A run in the same folder that was interrupted is continued if it was asked for the same; see `KeptStages`.
    """
    with one_at_a_time(), kept_states(), warnings.catch_warnings():  # libraries change filters when first imported
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
    check_probes(options.analyse, data)
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
    with seeded(seed), torch.random.fork_rng(devices=[]), unchanged(inside):
        name = options.model_name or type(inside).__name__
        kept = KeptStages(folder, recorder, data, request_key(recipe, show_budget(budget), seed, where, judge))
        context = Context(judge, seed, recorder, checkpoints=kept.checkpoints(recipe))
        fitting = Fitting(data, budget, recipe, context, recorder, kept, name, options)
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
class Fitting(RunSteps):
    """The courses of a run: cut once, or pruned while it trains."""

    def outcome(self, model: nn.Module, example: Example, device: torch.device) -> Outcome:
        """The whole run."""
        recorder, recipe, kept = self.recorder, self.recipe, self.kept
        subject = self._understand(model, example, device)
        if self.folder:
            kept.key |= network_key(subject.model, subject.graph.fingerprint) | data_key(self.data)
        if recipe.when.kind != "one-shot":
            return self._while_training(model, subject)
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
        return self._concluded(subject, decision, cut, Ending(model, network, quality, delivery, files, history))

    def _concluded(self, subject: Subject, decision: Decision, cut: Cut, end: Ending) -> Outcome:
        """The network timed, the record complete and written."""
        recorder, quality, files, delivery = self.recorder, end.quality, end.files, end.delivery
        self.kept.conclude()
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
            if any(note.startswith(NOT_WRITTEN) for note in recorder.notes):
                mark_incomplete(self.folder)
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


def _drop(quality: Mapping[str, Quality]) -> tuple[float, float] | None:
    """Quality of the original and of the result; None: it was not judged."""
    before, after = quality["original"].val, quality["final"].val
    return None if before is None or after is None else (before, after)


__all__ = ["Fitting", "Options", "Outcome", "check_limits", "run"]
