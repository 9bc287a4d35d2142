"""The run: understand, score, decide, cut, prove, repair, train, measure, write."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.allocate import narrowed
from sartor.borrow import device_of
from sartor.budget import parse_budget, show_budget
from sartor.cost import count
from sartor.errors import BadInput, SartorError
from sartor.measure import available, compare_afresh, environment, parse_target, prepare
from sartor.recipes import find_recipe
from sartor.repair.repair_step import heal
from sartor.run.cuttable import cuttable
from sartor.run.decide import Decision, decide, plan_for
from sartor.run.folder import RECORD, write_model, write_result
from sartor.run.outcome import Facts, Outcome, noise_note, result_of
from sartor.run.per_head_plans import with_fibres
from sartor.run.rank import ranked
from sartor.run.record import Progress, Recorder
from sartor.run.search import improved_scores
from sartor.seed import seeded
from sartor.structure import Example, Graph, trace
from sartor.structure.example import batch_of, map_tensors, to_device, with_batch
from sartor.surgery import apply_edits, edits_for, probe, prove
from sartor.train import History, TrainingSetup, accuracy, fine_tune
from sartor.train.batch import first_samples, split
from sartor.types import Budget, Data, Judge, Listener, Plan, Recipe, to_plain

Batches = Iterable[Any]
Evaluate = Callable[[nn.Module], float]
_PROOF_SAMPLES = 8
_TO_HOLD: dict[str, Any] = {"sessions": 6, "precision": 0.01, "min_seconds": 0.5, "max_seconds": 1.5}  # a limit
_TO_KNOW: dict[str, Any] = {"sessions": 2, "precision": 0.02, "min_seconds": 0.5, "max_seconds": 1.5}


def run(
    model: nn.Module,
    train: Batches | None = None,
    val: Batches | None = None,
    *,
    budget: str | Budget,
    recipe: str | Recipe | Callable[..., Any] = "taylor",
    cut: str | Sequence[str] | None = None,
    keep: str | Sequence[str] | None = None,
    test: Batches | None = None,
    example: Example | None = None,
    calibration: Batches | None = None,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    evaluate: Evaluate | None = None,
    metric: str = "accuracy",
    out: str | Path | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    model_name: str | None = None,
) -> Outcome:
    """See `sartor.fit`."""
    budget, recipe = parse_budget(budget), narrowed(find_recipe(recipe), cut, keep)
    seed = recipe.seed if seed is None else seed
    folder = _new_folder(out)
    record = Recorder(folder / RECORD if folder else None, progress)
    for limit in budget.limits:
        if limit.target:
            parse_target(limit.target)
    source = calibration if calibration is not None else train
    if example is None:
        example = _first_inputs(source if source is not None else val)
    _check_asked(budget, recipe, train, val, evaluate)
    where = torch.device(device) if device is not None else device_of(model)
    record.add(
        "asked", budget=show_budget(budget), recipe=recipe, seed=seed, device=str(where), environment=environment()
    )
    with seeded(seed), torch.random.fork_rng(devices=[]):
        return _Run(model, example, budget, recipe, record, where, seed, folder, metric).go(
            train, val, test, source, loss, evaluate, model_name or type(model).__name__
        )


class _Run:
    """The state that the steps share; each step is a method that reads like its line in the record."""

    def __init__(
        self,
        model: nn.Module,
        example: Example,
        budget: Budget,
        recipe: Recipe,
        record: Recorder,
        device: torch.device,
        seed: int,
        folder: Path | None,
        metric: str,
    ):
        self.given = model
        self.budget, self.recipe, self.record, self.device, self.seed = budget, recipe, record, device, seed
        self.folder, self.metric = folder, metric
        self.example = map_tensors(lambda t: t.detach(), with_batch(example, 1))
        self.model = model if device == device_of(model) else copy.deepcopy(model).to(device)

    def go(
        self,
        train: Batches | None,
        val: Batches | None,
        test: Batches | None,
        source: Batches | None,
        loss: Callable[[Any, Any], torch.Tensor] | None,
        evaluate: Evaluate | None,
        model_name: str,
    ) -> Outcome:
        recipe, record = self.recipe, self.record
        judge = evaluate or (None if val is None else (lambda m: accuracy(m, val, self.device)))
        examine = None if test is None else (lambda m: accuracy(m, test, self.device))
        graph = self._understand()
        with record.step("judge the original") as facts:
            quality: dict[str, float | None] = {"original": judge(self.model) if judge else None}
            tested: dict[str, float | None] = {"original": examine(self.model) if examine else None}
            facts.update(val=quality["original"], test=tested["original"])
        samples = [to_device(b, self.device) for b in first_samples(source, recipe.calibration)] if source else []
        original = count(graph)
        with record.step("score", recipe.learn or str(getattr(recipe.criterion, "__name__", recipe.criterion))):
            scores = ranked(
                graph, self.model, recipe, self.budget, original, samples, loss=loss, seed=self.seed, note=record.note,
                tell=lambda text: record.tell("score", None, text),
            )  # fmt: skip
        if recipe.search:
            scores = self._search(graph, scores, original, [x for x, _ in samples])
        with record.step("decide") as facts:
            decision = self._decide(graph, scores, original)
            plan = with_fibres(
                graph, self.model, decision.plan, recipe, samples, loss=loss, seed=self.seed, note=record.note
            )
            facts.update(kept=plan.counts(), trail=decision.trail, fibres=list(plan.fibres))
        with record.step("cut") as facts:
            edits = edits_for(self.model, graph, plan)
            smaller = apply_edits(self.model, edits)
            facts["rewritten"] = list(edits.programs)
        if edits.programs:
            record.note(_rewritten(list(edits.programs)))
        with record.step("prove") as facts:
            proof = prove(self.model, graph, plan, self._proof_inputs(samples), smaller=smaller)
            facts.update(max_relative_error=proof.max_relative_error, groups=proof.groups)
        if proof.mixing_groups:
            record.note(f"{proof.mixing_groups} cut groups are mixed by an operator and stand outside the exact proof")
        fitted = count(graph, plan.counts())
        quality["after_cut"], tested["after_cut"] = self._judge("judge the cut network", smaller, judge, examine)
        smaller = self._repair(smaller, graph, plan, samples)
        quality["after_repair"], tested["after_repair"] = self._judge("judge the repair", smaller, judge, examine)
        history = self._train(smaller, train, val, judge, loss)
        quality["final"], tested["final"] = (
            self._judge("judge the result", smaller, judge, examine)
            if history
            else (quality["after_repair"], tested["after_repair"])
        )
        if history and history.best_state is not None and examine:
            best = copy.deepcopy(smaller)
            best.load_state_dict(history.best_state)
            tested["chosen_by_validation"] = examine(best)
        smaller.eval()
        comparisons = self._measure(smaller)
        facts_all = Facts(
            self.budget, recipe, graph, original, fitted, plan, proof, quality, tested, self.metric, comparisons,
            [to_plain(s) for s in decision.trail],
            [dict(e) for e in history] if history else [], history.best_epoch if history else None,
            record.seconds, record.notes, model_name,
        )  # fmt: skip
        if self.folder:
            with record.step("write"):
                facts_all.files = write_model(self.folder, smaller, plan, edits)
        result = result_of(facts_all, self.folder)
        record.add("done", status=result["status"])
        if self.folder:
            write_result(self.folder, result)
        best_state = history.best_state if history else None
        return Outcome(smaller, self.given, self.example, graph, plan, edits, proof, result, record.steps, best_state)

    def _understand(self) -> Graph:
        with self.record.step("understand") as facts:
            found = trace(self.model, self.example)
            graph = probe(self.model, found)
            lost = len(found.groups) - len(graph.groups)
            if lost:
                self.record.note(f"{lost} groups cannot be cut in this class; the frozen axes say why")
            if not graph.groups:
                reasons = "; ".join(dict.fromkeys(f.reason for f in graph.frozen[:3]))
                raise BadInput(f"nothing in this model can be cut: {reasons or 'it has no parameters in use'}")
            graph = cuttable(graph, self.recipe)
            facts.update(groups=len(graph.groups), frozen=len(graph.frozen), operators=len(graph.ops))
        return graph

    def _search(self, graph: Graph, scores: Any, original: Any, inputs: list[Example]) -> Any:
        with self.record.step("search", f"{self.recipe.search} allocations") as facts:
            scores, facts["improved"] = improved_scores(
                self.model, graph, scores, lambda s: plan_for(graph, s, self.budget, self.recipe, original), inputs,
                tries=self.recipe.search, seed=self.seed, tell=lambda text: self.record.tell("search", None, text),
            )  # fmt: skip
        return scores

    def _decide(self, graph: Graph, scores: Any, original: Any) -> Decision:
        try:
            return decide(
                self.model, graph, scores, self.budget, self.recipe, original, self.example,
                tell=lambda text: self.record.tell("decide", None, text),
            )  # fmt: skip
        except SartorError as e:
            plan = getattr(e, "plan", None)
            if self.folder and plan is not None:
                from sartor.export.files import atomic_write

                atomic_write(self.folder / "plan.best.json", plan.to_json())
            raise

    def _judge(
        self, step: str, model: nn.Module, judge: Evaluate | None, examine: Evaluate | None
    ) -> tuple[float | None, float | None]:
        if judge is None and examine is None:
            return None, None
        with self.record.step(step) as facts:
            pair = (judge(model) if judge else None, examine(model) if examine else None)
            facts.update(val=pair[0], test=pair[1])
        return pair

    def _proof_inputs(self, samples: list[Any]) -> Example:
        if not samples:
            return to_device(self.example, self.device)
        inputs = samples[0][0]
        return with_batch(inputs, min(_PROOF_SAMPLES, batch_of(inputs)))

    def _repair(self, smaller: nn.Module, graph: Graph, plan: Plan, samples: list[Any]) -> nn.Module:
        recipe = self.recipe
        if not samples or not (recipe.refit or recipe.fold_mean or recipe.refresh_norm):
            return smaller
        with self.record.step("repair") as facts:
            smaller, done = heal(
                smaller, self.model, graph, plan, recipe, [x for x, _ in samples], seed=self.seed,
                note=self.record.note, tell=lambda share, text: self.record.tell("repair", share, text),
            )  # fmt: skip
            facts.update(done)
        return smaller

    def _train(
        self, smaller: nn.Module, train: Batches | None, val: Batches | None, judge: Evaluate | None, loss: Any
    ) -> History | None:
        if not self.recipe.training.epochs:
            return None
        assert train is not None
        with self.record.step("train", f"{self.recipe.training.epochs} epochs") as facts:
            history = fine_tune(
                smaller.to(self.device), Data(train=train, val=val),
                TrainingSetup(self.recipe.training, self.model, self.seed), judge=Judge(loss, judge),
                listener=Listener(lambda step, done, text: self.record.tell("train", done, text)),
                on_epoch=lambda row: self.record.add("epoch", **row),
            )  # fmt: skip
            facts.update(last=history.last, chosen=history.best)
        return history

    def _measure(self, smaller: nn.Module) -> dict[str, Any]:
        """The final network against the original, in turns, on every target of the budget, or on a default one."""
        limits = [str(x.target) for x in self.budget.limits if x.metric == "latency"]
        targets = limits
        if not targets:
            works = {name for name, ok, _ in available() if ok}
            targets = ["onnxruntime-cpu" if "onnxruntime-cpu" in works else "eager-cpu"]
        found: dict[str, Any] = {}
        for target in targets:
            with self.record.step(f"measure on {target}") as facts:
                found[target] = compare_afresh(
                    lambda target=target: prepare(self.model, self.example, target),  # type: ignore[misc]
                    lambda target=target: prepare(smaller, self.example, target),  # type: ignore[misc]
                    **(_TO_HOLD if target in limits else _TO_KNOW),
                )  # fmt: skip
                facts.update(ratio=found[target].ratio, interval=found[target].interval)
                if found[target].noisy:
                    self.record.note(noise_note(target, found[target]))
        return found


def _rewritten(paths: list[str]) -> str:
    """What a user has to know about forwards that were written anew."""
    named = ", ".join(p or "the model itself" for p in paths[:3]) + (", ..." if len(paths) > 3 else "")
    return (
        "forwards that state sizes which no attribute holds were rewritten from their operators: "
        f"{len(paths)} ({named}). They train and take any batch, but no other input size than the one traced; "
        "what their authors do in training only, besides dropout and batch norm, is left out"
    )


def _new_folder(out: str | Path | None) -> Path | None:
    if out is None:
        return None
    folder = Path(out)
    if (folder / "result.json").exists():
        raise BadInput(f"{folder} holds a finished run; choose another folder or remove it")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
    except OSError as e:
        raise SartorError(f"{folder}: cannot be written ({e.strerror or e})") from e
    return folder


def _first_inputs(batches: Batches | None) -> Example:
    if batches is None:
        raise BadInput("fit: expected example inputs or data; got neither (pass example=..., or a train or val loader)")
    for batch in batches:
        return split(batch)[0]
    raise BadInput("fit: the data loader gave no batch")


def _check_asked(
    budget: Budget, recipe: Recipe, train: Batches | None, val: Batches | None, evaluate: Evaluate | None
) -> None:
    if budget.max_drop is not None and val is None and evaluate is None:
        raise BadInput("budget 'drop': quality can only be limited where it is measured; pass val=... or evaluate=...")
    if recipe.training.epochs and train is None:
        raise BadInput(f"recipe {recipe.name!r} trains for {recipe.training.epochs} epochs; pass train=...")


__all__ = ["run"]
