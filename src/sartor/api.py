"""The front door: `fit`, `Session`, and what they give back."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.allocate import narrowed
from sartor.analysis import Chosen
from sartor.borrow import unchanged
from sartor.budget import parse_budget
from sartor.errors import BadInput
from sartor.export import atomic_write, export_onnx, export_pt2
from sartor.export.manifest import replacing_file, replacing_files
from sartor.recipes import find_recipe
from sartor.recipes.automatic import automatic_recipe
from sartor.report import write_report
from sartor.run import Options, Outcome, SessionOptions, TrainingSession, finish, run
from sartor.run.fit import check_limits
from sartor.run.folder import EDITS, PLAN, RECORD, WEIGHTS, write_network, write_result
from sartor.run.kept_stages import remove_stages
from sartor.run.record import Record
from sartor.seed import kept_states
from sartor.sparse.sparse_file import save_sparse
from sartor.structure import Example
from sartor.train import callbacks
from sartor.train.arrangement import Arrangement, arranged
from sartor.types import Budget, Data, Judge, Listener, Plan, Progress, Recipe, Rewrite, Verdict
from sartor.wrappers import unwrapped, wrapped_like


class Fitted:
    """A network that fits, with the plan, the proof and everything measured on the way."""

    def __init__(self, outcome: Outcome):
        self._outcome = outcome

    @property
    def model(self) -> nn.Module:
        """The smaller network: an ordinary module of the same class, inside DataParallel if the model was."""
        return wrapped_like(self._outcome.model, self._outcome.original)

    @property
    def plan(self) -> Plan:
        """Which units stayed."""
        return self._outcome.plan

    @property
    def proof(self) -> Verdict:
        """Cut network against silenced original, before any repair."""
        return self._outcome.verdict

    @property
    def record(self) -> Record:
        """What was asked, decided and measured, step by step."""
        return self._outcome.record

    @property
    def result(self) -> dict[str, Any]:
        """What `sartor fit --json` prints: a view of the record."""
        return self._outcome.record.result()

    @property
    def met(self) -> bool:
        """Whether every limit and the quality floor hold, or are missed by less than the measurement can tell."""
        return self._outcome.met

    def __repr__(self) -> str:
        parts = [f"{r['metric']} {r['status']}" for r in self.result["budget"]]
        return f"Fitted({type(self._outcome.model).__name__}, {', '.join(parts)})"

    def save(self, folder: str | Path) -> Path:
        """Plan, edits, weights, record and result; `sartor.load(folder, factory)` gives the network back."""
        folder, outcome = Path(folder), self._outcome
        lines = "".join(row.model_dump_json(exclude_unset=True) + "\n" for row in outcome.record.record)
        with replacing_files(folder) as stage:
            files = dict(outcome.record.files) | {"plan": PLAN, "edits": EDITS, "weights": WEIGHTS}
            write_network(stage, outcome.model, self.plan, outcome.edits)
            files |= outcome.delivery.copy_to(outcome.model, stage)
            atomic_write(stage / RECORD, lines)
            write_result(folder, outcome.record.model_copy(update={"run": str(folder), "files": files}), stage)
        remove_stages(folder)
        return folder

    def export(self, path: str | Path) -> dict[str, Any]:
        """Write `.onnx` or `.pt2`, checked against eager at several batch sizes; the report of that check.

        The `.onnx` file has the bytes that were timed, unless the model was changed since.
        """
        delivered = self._outcome.delivery.current(self._outcome.model, "model.onnx")
        if delivered is not None and Path(path).suffix == ".onnx" and delivered.report["max_relative_error"] <= 1e-4:
            data = delivered.path.read_bytes()
            with replacing_file(path) as place:
                atomic_write(place, data)
            return {**delivered.report, "path": str(path)}
        writers = {".onnx": export_onnx, ".pt2": export_pt2}
        suffix = Path(path).suffix
        if suffix not in writers:
            raise BadInput(f"export: expected a path that ends in .onnx or .pt2; got {str(path)!r}")
        with replacing_file(path) as place:
            report = writers[suffix](self._outcome.model, self._outcome.example, place)
        return {**report, "path": str(path)}

    def report(self, path: str | Path) -> Path:
        """Write the report: one HTML file that opens without a network."""
        return Path(write_report(self._outcome.record, path) or path)


class Session:
    """A training run of your own that prunes: units go, and may come back, while the network trains.

    Make it when model and optimizer exist; call `step()` after every `optimizer.step()`, and `finish()` at the end:

        session = sartor.Session(model, optimizer, example, budget="macs<=50%", recipe="chex", steps=len(batches))
        for x, y in batches:
            loss(model(x), y).backward()
            optimizer.step()
            session.step()
            optimizer.zero_grad()
        fitted = session.finish(val=val)

    Gradient accumulation, clipping, gradient scalers, averaged weights, `torch.compile` and DistributedDataParallel
    work as without it: the session hangs on the optimizer's step hooks. Removed units are exactly zero after every
    update, in weights and in the optimizer's state. Under torch.distributed rank 0 decides for all ranks.

    Args:
        model: trained in place, by you; its wrappers may be around it.
        optimizer: of the model's parameters, made before. Wrappers such as accelerate's may be around it.
        example: inputs the model can be called with; one sample is traced.
        budget: such as "macs<=50%"; met by the last decision, from `recipe.when` on. Latency is measured then.
        recipe: one that prunes while training: its name, or a `Recipe` whose `when` is not `OneShot`.
        steps: how many times `step` will be called in the whole run.
        data: batches for scores that read data; most need none.
        loss: loss(output, targets) -> scalar, for scores that need gradients; None: cross entropy.
        seed: of everything random; None: the recipe's. Nothing is drawn from the generators of the process.
        progress: called as progress(step, share done or None, text) at every decision. What stays whole is a warning.

    Raises:
        BadInput: the recipe cuts once, the optimizer is not the model's, or nothing can be masked; says why.
        BudgetNotMet, NothingToDo: the budget cannot be met, or is met already; found out before the training.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        example: Example,
        *,
        budget: str | Budget,
        recipe: str | Recipe = "chex",
        steps: int,
        data: Iterable[Any] | None = None,
        loss: Callable[[Any, Any], torch.Tensor] | None = None,
        seed: int | None = None,
        progress: Progress | None = None,
    ):
        limits = parse_budget(budget)
        check_limits(limits)
        self._progress = progress
        options = SessionOptions(steps, Data(calibration=data), Judge(loss), seed, Listener(progress, warnings.warn))
        self._session = TrainingSession(model, optimizer, example, (limits, find_recipe(recipe)), options)

    def step(self) -> None:
        """Call it after every `optimizer.step()`, also where a gradient scaler may have skipped the update.

        Raises:
            BadInput: more steps than `steps`.
        """
        self._session.step()

    @property
    def plan(self) -> Plan | None:
        """The units that are live now; None: all of them."""
        return self._session.plan

    @property
    def network(self) -> nn.Module:
        """What may be called in place of the model: the cut network on slices of its weights, as cheap as it is.

        Outputs and gradients equal the masked model's up to rounding. The model itself while everything is live, and
        where its forward can only be cut by rewriting it. Ask anew for every step.
        """
        return self._session.network

    @property
    def density(self) -> float:
        """MACs of what is live over those of the dense network."""
        return self._session.mechanism.density()

    @property
    def masks(self) -> dict[str, torch.Tensor]:
        """Where weights are masked: by parameter, bool in its shape, True = live. Empty where units are removed."""
        return {name: mask.clone() for name, mask in self._session.masks.items()}

    def save_sparse(self, path: str | Path, network: nn.Module | None = None) -> dict[str, int]:
        """Write the masked network as one safetensors file without its dead weights; `load_sparse_` reads it.

        Args:
            path: of the file.
            network: of the same class, masked alike, such as `fitted.model`; None: the one that trains.

        Returns:
            By masked parameter, the bytes that the file holds of it.

        Raises:
            BadInput: the recipe removes units.
        """
        masked, recipe = self._session.masked, self._session.recipe
        if masked is None:
            raise BadInput(f"recipe {recipe.name!r} removes units: save the network that finish() gives")
        net = unwrapped(self._session.model if network is None else network).module
        return save_sparse(net, masked.masks.masks, masked.layers, path, masked.cut.pattern)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs besides the states of model and optimizer; `torch.save` it with them."""
        return self._session.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse, on a session made with the same arguments, after model and optimizer were loaded.

        Raises:
            BadInput: the state is of another network, recipe, number of steps or seed.
        """
        self._session.load_state_dict(state)

    def finish(
        self,
        val: Iterable[Any] | None = None,
        *,
        test: Iterable[Any] | None = None,
        evaluate: Callable[[nn.Module], float] | None = None,
        average: nn.Module | None = None,
        out: str | Path | None = None,
    ) -> Fitted:
        """Cut the trained network physically, prove the cut against it, measure and record, as `fit` does.

        Args:
            val: batches the quality is judged on.
            test: batches looked at only to report.
            evaluate: evaluate(model) -> float, larger is better; None: top-1 accuracy on `val`.
            average: averaged weights, such as an `AveragedModel`, to deliver in place of the model's own.
            out: run folder; None: nothing is written until `save`.

        Returns:
            The fitted network. Its proof compares the cut network with the trained one, removed units at zero.

        Raises:
            BadInput: the decision that meets the budget has not been made yet.
            ProofFailed: see `sartor.errors`.
        """
        session = self._session
        judge = Judge(session.options.judge.loss, evaluate)
        outcome = finish(
            session, Data(val=val, test=test), judge, Options(None, out, listener=Listener(self._progress)), average
        )
        session.close()
        return Fitted(outcome)


def lightning_callback(
    example: Example, *, budget: str | Budget, recipe: str | Recipe = "chex", seed: int | None = None,
    network: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> Any:  # fmt: skip
    """A Lightning callback that prunes while `trainer.fit` trains; then `callback.session.finish(val=...)`.

    Args:
        example: inputs of the network.
        budget, recipe, seed: as for `Session`.
        network: gives what is pruned from the LightningModule, such as `lambda module: module.model`.

    Raises:
        MissingExtra: lightning is not installed.
    """
    make = partial(_session, example, budget=budget, recipe=recipe, seed=seed)
    return callbacks.lightning_callback(make, network)


def trainer_callback(
    example: Example, *, budget: str | Budget, recipe: str | Recipe = "chex", seed: int | None = None
) -> Any:
    """A callback that prunes while a Hugging Face Trainer trains; then `callback.session.finish(val=...)`.

    Arguments and errors as for `lightning_callback`.
    """
    return callbacks.trainer_callback(partial(_session, example, budget=budget, recipe=recipe, seed=seed))


def _session(
    example: Example, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, **options: Any
) -> Session:
    return Session(model, optimizer, example, steps=steps, **options)


def fit(
    model: nn.Module,
    train: Iterable[Any] | None = None,
    val: Iterable[Any] | None = None,
    *,
    budget: str | Budget,
    recipe: str | Recipe | Callable[..., Any] | None = None,
    epochs: int | None = None,
    cut: str | Sequence[str] | None = None,
    keep: str | Sequence[str] | None = None,
    rewrite: Rewrite | None = None,
    test: Iterable[Any] | None = None,
    example: Example | None = None,
    calibration: Iterable[Any] | None = None,
    target: str | None = None,
    loss: Callable[[Any, Any], torch.Tensor] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    metric: str | Callable[[nn.Module, Iterable[Any]], float] | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    model_name: str | None = None,
    analyse: Sequence[Chosen] = (),
) -> Fitted:
    """Fit a network to a budget: find out what can be cut, decide, cut, prove, heal, measure.

    Args:
        model: any module; it stays as it is. Of a wrapped one the network inside is fitted; see `sartor.wrappers`.
        train: batches to train on and, unless `calibration` is given, to calibrate with: pairs (inputs, targets), or
            dicts of the forward's arguments with the targets under "labels" or "label" (see `target`).
        val: batches the quality is judged on, chosen beforehand.
        budget: such as "latency<=60% @ onnxruntime-cpu, macs<=50%, drop<=0.5".
        recipe: a published method by name, a `Recipe`, or a function [units, rest] -> [units]. None: what suits the
            data, and a note says what was chosen. With data it is "reconstruction", and with labels in `train` also
            fine-tuning; without data "l1".
        epochs: of fine-tuning, 0: none. None: as the recipe says.
        cut: kinds ("heads"), names ("layer4*") or modules of the groups that may be cut; None: what the recipe says.
        keep: the same of groups that stay whole, besides those the recipe keeps.
        rewrite: which forwards may be rewritten from their operators: "free" those that stay as general as they were,
            "allow" also those that then take fewer sizes or arguments (`inspect` names them), "never" none; None: what
            the recipe says.
        test: batches looked at only to report: never used to decide.
        example: example inputs; taken from the first batches of the data when not given. One sample is traced and
            timed. A list holds several examples, such as inputs of different lengths.
        calibration: batches for scores and repair, best without augmentation; inputs without targets are enough for
            criteria that need no labels.
        target: key of the targets in batches that are dicts.
        loss: loss(output, targets) -> scalar; None: cross entropy for classes, mean squared error for continuous
            targets, or the loss that a Hugging Face model computes from labels.
        evaluate: evaluate(model) -> float, larger is better; None: `metric` on `val`.
        metric: a name in `sartor.train.metrics.METRICS`, or metric(model, batches) -> float, larger is better; None:
            top-1 accuracy in percent for classes, else minus the mean loss. With `evaluate`: its name in the report.
        out: run folder, written as the run goes on. None: nothing is written until `save`. If a run in it was
            interrupted, the same call continues there, and ends with the same bits; a note says so.
        seed: of everything random; None: the recipe's.
        device: where scores and training run; None: where the model lies.
        progress: called as progress(step, share done or None, text).
        model_name: for the record.
        analyse: probes by name, or functions, that look at the original and at the fitted network; their rows are in
            the record and in the report. See `sartor.analyse`. What cannot be computed becomes a note.

    Returns:
        The fitted network. `fitted.met` says whether every limit holds.

    Raises:
        BadInput: an argument is of the wrong kind or out of range.
        NothingToDo: the original already meets the budget.
        BudgetNotMet: a limit cannot be met; says the floor.
        CannotTrace, ProofFailed, TrainingDiverged: see `sartor.errors`.
    """
    if progress is not None and not callable(progress):
        raise BadInput(f"progress: expected a function of (step, share, text); got {type(progress).__name__}")
    if isinstance(analyse, str):
        raise BadInput(f"analyse: expected a list of probes such as [{analyse!r}]; got one text")
    limits = parse_budget(budget)
    check_limits(limits)
    given = Data(train, val, test, calibration)
    with kept_states(), unchanged(model) if isinstance(model, nn.Module) else nullcontext():
        seen = arranged(model, given, Judge(loss, evaluate), target=target, metric=metric)
    chosen, notes = _recipe(model, seen, recipe, epochs)
    first = seen.example if example is None else example
    options = Options(first, out, seed, device, Listener(progress), model_name, notes, recipe is None, tuple(analyse))
    return Fitted(run(model, seen.data, limits, narrowed(chosen, cut, keep, rewrite), seen.judge, options))


def _recipe(
    model: nn.Module, seen: Arrangement, recipe: str | Recipe | Callable[..., Any] | None, epochs: int | None
) -> tuple[Recipe, tuple[str, ...]]:
    """The recipe of a run, and what a user has to know about the choice."""
    if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0):
        raise BadInput(f"epochs: expected a whole number of at least 0; got {epochs!r}")
    if recipe is not None:
        chosen = find_recipe(recipe)
        if epochs is not None:
            chosen = chosen.with_training(replace(chosen.training, epochs=epochs))
        return chosen, seen.notes
    train = seen.data.train if seen.labelled else None
    chosen, why = automatic_recipe(
        model, train, calibrated=seen.data.for_scores is not None, epochs=epochs, classes=seen.task == "classes"
    )
    return chosen, (*seen.notes, why)
