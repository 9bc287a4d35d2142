"""Fine-tuning: one training loop, reproducible from its seed."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed, device_of, in_channels_last
from sartor.errors import BadInput, CorruptFile, NothingToDo, TrainingDiverged
from sartor.schedule.cosine import cosine_with_warmup
from sartor.seed import own_generators, seed_everything, seeded
from sartor.structure.example import tensors
from sartor.train.average import Average
from sartor.train.checkpoint import Checkpoints
from sartor.train.evaluate import evaluator
from sartor.train.interruption import Interruption, deferred_signals
from sartor.train.pruning import MakePruning
from sartor.train.step import TrainingStep, cross_entropy, optimizer_of
from sartor.train.training_state import TrainingState
from sartor.types import SILENT, Data, FineTune, Judge, Listener
from sartor.units import show_seconds

CONTINUED = "CONTINUED"  # the beginning of a note about a run that was interrupted
SETBACKS, LOWER = 3, 0.25  # how often a training that diverges goes back, and the factor of its learning rate then
EXPLODED = 1e3  # a loss so many times the first one, and so large, is no training any more
_CHECK_EVERY = {"cpu": 1}  # steps between checks of the loss: free on a CPU, other devices have to be waited for
_TELL_EVERY_S = 0.2


@dataclass(frozen=True)
class TrainingSetup:
    """How a network is trained: options, the network it imitates, the seed."""

    options: FineTune
    teacher: nn.Module | None = None  # loss = (1 - distill) * loss + distill * T^2 KL; None: no distillation
    seed: int = 0
    checkpoints: Checkpoints | None = None  # where the training is kept, and continued from; None: in memory only
    pruning: MakePruning | None = None  # makes the session that prunes while this trains; None: every unit stays


@dataclass(frozen=True)
class History:
    """The course of a training, epoch by epoch.

    Each row holds "epoch" (from 1), "loss" (mean over samples), "val" (quality, larger is better; None if it was not
    evaluated), "lr" (at the last step) and "seconds".
    """

    epochs: tuple[dict[str, Any], ...]
    best_epoch: int | None = None  # the first epoch with the highest val
    best_state: Mapping[str, Any] | None = None  # state_dict of that epoch, on the CPU

    def __len__(self) -> int:
        return len(self.epochs)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.epochs)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self.epochs[i]

    @property
    def last(self) -> dict[str, Any]:
        """The row of the last epoch, whose weights the model has."""
        return self.epochs[-1]

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the best epoch on validation data; None if quality was not evaluated."""
        return self.epochs[self.best_epoch - 1] if self.best_epoch else None


def fine_tune(
    model: nn.Module,
    data: Data,
    setup: TrainingSetup,
    *,
    judge: Judge = Judge(),  # noqa: B008
    listener: Listener = SILENT,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> History:
    """Train the model in place; it ends with the weights of the last epoch (their average if `options.ema`).

    Reproducible: the same seed, data and machine give the same weights, bit for bit. At the start of every epoch, all
    global random generators are seeded with (seed, epoch), so dropout and DataLoaders that draw from torch's own
    generator repeat. A loader with a generator of its own is not reseeded. If a loader or its sampler has `set_epoch`,
    it is called with the epoch, from 0.

    Args:
        model: trained in place, on the device of its parameters. Parameters that require no gradient stay as they are;
            training modes of modules are restored.
        data: `train` is iterated once an epoch, with batches as `sartor.train.split` reads them. `val` is read after
            every epoch, unless `judge.evaluate` replaces the judge's measure on it; None: quality is not evaluated.
        setup: the options (see `FineTune`), the teacher and the seed. Learning rate: linear warm-up, then a cosine to
            0, evaluated in the middle of each step; if `train` has no length, once an epoch. SGD uses Nesterov's
            momentum. Weight decay applies to every parameter. The teacher is not changed: it is copied if it has to
            move to another device or memory format.
        judge: `loss` (outputs, targets) -> scalar, the mean over samples; None: cross entropy of the logits with label
            smoothing. `evaluate` as under `data`.
        listener: receives progress a few times a second.
        on_epoch: called with each row of the history.

    Returns:
        The history, with the weights of the best epoch on validation data in `best_state`.

    Raises:
        NothingToDo: zero epochs, or no parameter requires a gradient.
        TrainingDiverged: the loss or a weight became NaN or infinite; the message says in which step. The model is then
            of no use.
        BadInput: there is no training data, a batch cannot be read, or the model is its own teacher.
    """
    options, teacher = setup.options, setup.teacher
    if teacher is model:
        raise BadInput("fine-tuning: expected the original as teacher; got the model that is being trained")
    if options.epochs == 0:
        raise NothingToDo("fine-tuning: expected at least one epoch; got 0")
    if data.train is None:
        raise BadInput("fine-tuning: expected training data; got none")
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise NothingToDo("fine-tuning: no parameter of the model requires a gradient")
    device = device_of(model)
    evaluate = evaluator(data, judge, device)
    with ExitStack() as stack:
        stack.enter_context(seeded(setup.seed))
        stack.enter_context(_deterministic(device))
        stack.enter_context(borrowed(model, training=True))
        if options.channels_last:
            stack.enter_context(in_channels_last(model))
        if teacher is not None and options.distill > 0:
            teacher = _teacher_on(teacher, device, options)
            stack.enter_context(borrowed(teacher))
        else:
            teacher = None
        average = Average(model, options.ema) if options.ema else None
        loss = judge.loss or cross_entropy(options)
        step = TrainingStep(model, optimizer_of(trained, options), options, loss, teacher, average)
        if setup.pruning is not None:
            steps = _length(data.train)
            if steps is None:
                raise BadInput(
                    "pruning while training: expected a train loader with a length; schedules are shares of it"
                )
            step.pruning = setup.pruning(model, step.optimizer, steps * options.epochs)
        state = TrainingState(step, [data.train, data.val])
        interruption = stack.enter_context(deferred_signals())
        course = _Course(state, data.train, setup, listener, interruption, setup.checkpoints or Checkpoints(None))
        course.run(evaluate, on_epoch)
        if average:
            average.keep_()
    return History(tuple(state.rows), state.best_epoch, state.best_state)


@dataclass(frozen=True)
class _Course:
    """The epochs of one training, from the start or from its last checkpoint."""

    state: TrainingState
    train: Iterable[Any]
    setup: TrainingSetup
    listener: Listener
    interruption: Interruption
    checkpoints: Checkpoints

    def run(
        self, evaluate: Callable[[nn.Module], float] | None, on_epoch: Callable[[dict[str, Any]], None] | None
    ) -> None:
        """Train the epochs that are left."""
        state, options = self.state, self.setup.options
        self.checkpoints.key["data loaders"] = ", ".join(own_generators(state.owners))
        parts = self.checkpoints.last()
        if parts is not None:
            state.load(parts)
            self.checkpoints.restore_beside(parts)
            self.listener.note(
                f"{CONTINUED} training after an interruption: from epoch {state.epoch + 1}, step {state.done + 1}"
                if state.epoch < options.epochs
                else f"{CONTINUED} after an interruption: the training was done"
            )
        while state.epoch < options.epochs:
            try:
                self._epoch(evaluate, on_epoch, None if parts is None else parts["batch"])
            except TrainingDiverged as e:
                self._step_back(e)
            except BaseException as e:
                self._keep_place(e)
                raise
            parts = None
        if parts is None:
            state.begin_epoch()
            self.checkpoints.begin_epoch(state.epoch, state.parts(), must=True)

    def _epoch(
        self,
        evaluate: Callable[[nn.Module], float] | None,
        on_epoch: Callable[[dict[str, Any]], None] | None,
        last_batch: str | None,
    ) -> None:
        """One epoch with its validation; from the step that is reached.

        Args:
            evaluate: quality of the network; None: not judged.
            on_epoch: receives the row.
            last_batch: digest of the last batch that was trained on in this epoch, if some were.
        """
        state, average = self.state, self.state.step.average
        started = time.perf_counter()
        if not state.done:
            state.begin_epoch()
            self.checkpoints.begin_epoch(state.epoch, state.parts())
        mean, rate = self._steps(last_batch)
        quality = None
        with average.applied() if average else nullcontext():
            if evaluate is not None:
                quality = float(evaluate(state.step.model))
                if quality > state.best_val:
                    state.best_epoch, state.best_val = state.epoch + 1, quality
                    state.best_state = _snapshot(state.step.model)
        seconds = time.perf_counter() - started
        row = {"epoch": state.epoch + 1, "loss": mean, "val": quality, "lr": rate, "seconds": seconds}
        state.rows.append(row)
        state.epoch += 1
        state.done = 0
        if on_epoch:
            on_epoch(row)

    def _steps(self, last_batch: str | None) -> tuple[float, float]:
        """(mean loss over samples, learning rate of the last step) of the epoch."""
        state, options, step = self.state, self.setup.options, self.state.step
        steps, epoch = _length(self.train), state.epoch
        step.model.train()
        batches = self._batches(last_batch)
        watch = _LossWatch(state, options, _CHECK_EVERY.get(step.device.type, 20))
        state.settle = watch.read
        told_at = -math.inf
        rate, began, first = 0.0, time.monotonic(), state.done
        if steps and first:  # the epoch may have been left behind its last step
            rate = self._rate(first - 1, steps)
        for batch in batches:
            i = state.done
            rate = self._rate(i, steps)
            with self.interruption.held():
                state.whole = False
                watch.add(*step(batch, rate), rate, batch)
                state.done += 1
                if self.checkpoints.within_epochs:
                    state.mark(batch)
                state.whole = True
            if self.checkpoints.due():
                state.settle()
                self.checkpoints.write(epoch, state.done, state.parts())
            if time.monotonic() - told_at > _TELL_EVERY_S:
                told_at = time.monotonic()
                within = min(1.0, (i + 0.5) / steps) if steps else 0.5
                gone = within - (min(1.0, first / steps) if steps else 0.0)
                left = (told_at - began) * (options.epochs - epoch - within) / gone if steps and gone > 0 else None
                until = "" if left is None else f", about {show_seconds(left)} left"
                of = f"/{steps}" if steps else ""
                self.listener.tell(
                    f"epoch {epoch + 1}/{options.epochs} step {i + 1}{of} loss {watch.last:.4f} lr {rate:.3g}{until}",
                    (epoch + within) / options.epochs,
                )
        mean = watch.mean()
        for name, p in step.model.named_parameters():
            if not bool(torch.isfinite(p).all()):
                raise TrainingDiverged(
                    f"weights {name!r} became NaN or infinite in epoch {epoch + 1}. {_advice(options)}"
                )
        return mean, rate

    def _rate(self, i: int, steps: int | None) -> float:
        """The learning rate of a step of this epoch, from 0."""
        options = self.setup.options
        within = min(1.0, (i + 0.5) / steps) if steps else 0.5
        scale = options.lr * self.state.rate_scale
        return scale * cosine_with_warmup((self.state.epoch + within) / options.epochs, warmup=options.warmup)

    def _batches(self, last_batch: str | None) -> Iterator[Any]:
        """The batches of this epoch that were not trained on yet.

        Where the loader does not give the same batches again, the epoch begins anew, and a note says so.
        """
        state, seed = self.state, self.setup.seed
        _start_epoch(self.train, state.epoch, seed)
        iterator = iter(self.train)
        if state.done and not state.replay(iterator, last_batch):
            start = self.checkpoints.start_of(state.epoch)
            if start is None:
                raise CorruptFile(
                    f"checkpoint: the start of epoch {state.epoch + 1} is missing; remove the checkpoints"
                )
            self.listener.note(
                f"epoch {state.epoch + 1} began anew: the train loader did not give the batches again that it gave "
                f"before the interruption. Were the data changed?"
            )
            state.load(start)
            self.checkpoints.forget_after(state.epoch, 0)
            _start_epoch(self.train, state.epoch, seed)
            iterator = iter(self.train)
        if not state.done and self.checkpoints.within_epochs:
            state.mark()
        return iterator

    def _step_back(self, error: TrainingDiverged) -> None:
        """Go back to the start of the epoch with a lower learning rate; if that helped too seldom, raise."""
        state, options = self.state, self.setup.options
        start = self.checkpoints.start_of(state.epoch)
        if start is None or state.setbacks >= SETBACKS or isinstance(error, _BadBatch):
            raise error
        setbacks, scale = state.setbacks + 1, state.rate_scale * LOWER
        self.checkpoints.forget_after(state.epoch, 0)
        state.load(start)
        state.setbacks, state.rate_scale = setbacks, scale
        self.listener.note(
            f"training went back to the start of epoch {state.epoch + 1} and goes on with a learning rate of "
            f"{options.lr * scale:.3g} in place of {options.lr * scale / LOWER:.3g}: {error}"
        )

    def _keep_place(self, error: BaseException) -> None:
        """Keep what is done although the epoch cannot go on: the loader failed, or somebody stops the process."""
        state = self.state
        if not state.whole or not state.done or not self.checkpoints.within_epochs:
            return
        try:
            state.settle()
        except TrainingDiverged:
            return
        if self.checkpoints.write(state.epoch, state.done, state.parts()):
            error.add_note(
                f"sartor: training stopped in epoch {state.epoch + 1} after step {state.done}; "
                f"{self.checkpoints.folder} keeps its state: the same call continues there"
            )


def _start_epoch(train: Iterable[Any], epoch: int, seed: int) -> None:
    """Seed the global generators, and tell the loader and its samplers the epoch."""
    seed_everything((seed * 1_000_003 + epoch) % 2**63)
    for holder in (train, getattr(train, "sampler", None), getattr(train, "batch_sampler", None)):
        set_epoch = getattr(holder, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)


class _BadBatch(TrainingDiverged):
    """The inputs themselves are not finite: another learning rate does not help."""


class _LossWatch:
    """Sums losses and raises at the first one that is not finite; losses are read from the device every few steps."""

    def __init__(self, state: TrainingState, options: FineTune, every: int):
        self.state, self.options, self.every = state, options, every
        self.unread: list[tuple[Tensor, int, float, Any]] = []  # loss on its device, samples, learning rate, batch
        self.steps, self.last = state.done, math.nan

    def add(self, value: Tensor, samples: int, rate: float, batch: Any) -> None:
        """Add the loss of one step."""
        self.unread.append((value, samples, rate, batch))
        if len(self.unread) >= self.every:
            self.read()

    def mean(self) -> float:
        """Mean loss over the samples of the epoch."""
        self.read()
        if not self.steps:
            raise BadInput(
                f"fine-tuning: the train loader gave no batch in epoch {self.state.epoch + 1}; "
                "expected one that can be iterated again in every epoch"
            )
        return self.state.total / self.state.samples

    def read(self) -> None:
        """Read the losses from their device; the sums of the state are complete afterwards."""
        if not self.unread:
            return
        state = self.state
        values = torch.stack([v.float() for v, *_ in self.unread]).tolist()
        for value, (_, samples, rate, batch) in zip(values, self.unread):
            self.steps += 1
            if state.first_loss is None:
                state.first_loss = value
            if not abs(value) <= EXPLODED * max(1.0, abs(state.first_loss)):
                raise self._divergence(value, rate, batch)
            state.total += value * samples
            state.samples += samples
            self.last = value
        self.unread = []

    def _divergence(self, value: float, rate: float, batch: Any) -> TrainingDiverged:
        where = f"in epoch {self.state.epoch + 1}, step {self.steps} (learning rate {rate:.3g})"
        values = [t for t in tensors(batch) if t.is_floating_point()]
        if not all(bool(torch.isfinite(t).all()) for t in values):
            return _BadBatch(f"loss became {value} {where}: the batch holds NaN or infinite values. Remove them")
        grew = "" if not math.isfinite(value) else f", from {self.state.first_loss:.3g} at the first step"
        return TrainingDiverged(f"loss became {value:.6g}{grew} {where}. {_advice(self.options)}")


def _advice(options: FineTune) -> str:
    precision = ", train in bfloat16 or float32" if options.precision == "float16" else ""
    return f"Lower lr (now {options.lr:g}), set clip=1.0, lengthen the warm-up{precision}, or look for NaN in the data"


def _teacher_on(teacher: nn.Module, device: torch.device, options: FineTune) -> nn.Module:
    """The teacher itself if it is on the device in the right memory format, else a copy that is."""
    if device_of(teacher) == device and not options.channels_last:
        return teacher
    moved = copy.deepcopy(teacher).to(device)
    return moved.to(memory_format=torch.channels_last) if options.channels_last else moved


def _snapshot(model: nn.Module) -> dict[str, Any]:
    """A copy of the state_dict on the CPU, in contiguous memory format."""

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return copy.deepcopy(value)
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

    return {name: one(value) for name, value in model.state_dict().items()}


def _length(loader: Iterable[Any]) -> int | None:
    """Batches of the loader; None: unknown."""
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


@contextmanager
def _deterministic(device: torch.device) -> Iterator[None]:
    """Inside the block, cuDNN uses deterministic algorithms; other devices need no setting."""
    if device.type != "cuda":
        yield
        return
    backend = torch.backends.cudnn
    before = backend.deterministic, backend.benchmark
    backend.deterministic, backend.benchmark = True, False
    try:
        yield
    finally:
        backend.deterministic, backend.benchmark = before
