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
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.borrow import borrowed, device_of, in_channels_last
from sartor.errors import BadInput, NothingToDo, TrainingDiverged
from sartor.schedule.cosine import cosine_with_warmup
from sartor.seed import seed_everything, seeded
from sartor.structure.example import batch_of, call, call_in_training, first_tensor
from sartor.train.average import Average
from sartor.train.batch import move, split
from sartor.train.distill import distillation
from sartor.train.evaluate import evaluator
from sartor.train.targets import check_classes
from sartor.types import SILENT, Data, FineTune, Judge, Listener
from sartor.units import show_seconds

Loss = Callable[[Any, Any], Tensor]
_DTYPE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CHECK_EVERY = {"cpu": 1}  # steps between checks of the loss: free on a CPU, other devices have to be waited for
_TELL_EVERY_S = 0.2


@dataclass(frozen=True)
class TrainingSetup:
    """How a network is trained: options, the network it imitates, the seed."""

    options: FineTune
    teacher: nn.Module | None = None  # loss = (1 - distill) * loss + distill * T^2 KL; None: no distillation
    seed: int = 0


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
        loss = judge.loss or _cross_entropy(options)
        step = _Step(model, _optimizer(trained, options), options, loss, teacher, average)
        rows: list[dict[str, Any]] = []
        best_epoch, best_state, best_val = None, None, -math.inf
        for epoch in range(options.epochs):
            started = time.perf_counter()
            _start_epoch(data.train, epoch, setup.seed)
            mean, rate = _one_epoch(step, data.train, epoch, listener)
            quality = None
            with average.applied() if average else nullcontext():
                if evaluate is not None:
                    quality = float(evaluate(model))
                    if quality > best_val:
                        best_epoch, best_state, best_val = epoch + 1, _snapshot(model), quality
            row = {
                "epoch": epoch + 1,
                "loss": mean,
                "val": quality,
                "lr": rate,
                "seconds": time.perf_counter() - started,
            }
            rows.append(row)
            if on_epoch:
                on_epoch(row)
        if average:
            average.keep_()
    return History(tuple(rows), best_epoch, best_state)


class _Step:
    """One optimiser step on one batch."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        options: FineTune,
        loss: Loss,
        teacher: nn.Module | None,
        average: Average | None,
    ):
        self.model, self.optimizer, self.options = model, optimizer, options
        self.loss, self.teacher, self.average = loss, teacher, average
        self.device = device_of(model)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=options.precision == "float16")

    def __call__(self, batch: Any, rate: float) -> tuple[Tensor, int]:
        """(loss, samples) of the batch, trained with this learning rate; the loss stays on the device."""
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = split(batch)
        inputs = move(inputs, self.device, channels_last=options.channels_last)
        targets = move(targets, self.device)
        with torch.autocast(self.device.type, _DTYPE[options.precision], enabled=options.precision != "float32"):
            output = call_in_training(self.model, inputs)
            value = self.loss(output, targets)
            if not isinstance(value, Tensor) or value.numel() != 1:
                got = f"a tensor {list(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
                raise BadInput(f"loss: expected a function that returns one number as a tensor; it returned {got}")
            if self.teacher is not None:
                with torch.no_grad():
                    soft = first_tensor(call(self.teacher, inputs))
                soft_loss = distillation(first_tensor(output), soft, options.temperature)
                value = (1 - options.distill) * value + options.distill * soft_loss
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(value).backward()
        if options.clip:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average:
            self.average.update()
        return value.detach(), batch_of(inputs)


def _start_epoch(train: Iterable[Any], epoch: int, seed: int) -> None:
    """Seed the global generators, and tell the loader and its samplers the epoch."""
    seed_everything((seed * 1_000_003 + epoch) % 2**63)
    for holder in (train, getattr(train, "sampler", None), getattr(train, "batch_sampler", None)):
        set_epoch = getattr(holder, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)


def _one_epoch(step: _Step, train: Iterable[Any], epoch: int, listener: Listener) -> tuple[float, float]:
    """(mean loss over samples, learning rate of the last step)."""
    options = step.options
    steps = _length(train)
    step.model.train()
    watch = _LossWatch(epoch, options, _CHECK_EVERY.get(step.device.type, 20))
    told_at = -math.inf
    rate, began = 0.0, time.monotonic()
    for i, batch in enumerate(train):
        within = min(1.0, (i + 0.5) / steps) if steps else 0.5
        done = (epoch + within) / options.epochs
        rate = options.lr * cosine_with_warmup(done, warmup=options.warmup)
        watch.add(*step(batch, rate), rate)
        if time.monotonic() - told_at > _TELL_EVERY_S:
            told_at = time.monotonic()
            left = (told_at - began) * (options.epochs - epoch - within) / within if steps else None
            until = "" if left is None else f", about {show_seconds(left)} left"
            of = f"/{steps}" if steps else ""
            listener.tell(
                f"epoch {epoch + 1}/{options.epochs} step {i + 1}{of} loss {watch.last:.4f} lr {rate:.3g}{until}", done
            )
    mean = watch.mean()
    for name, p in step.model.named_parameters():
        if not bool(torch.isfinite(p).all()):
            raise TrainingDiverged(f"weights {name!r} became NaN or infinite in epoch {epoch + 1}. {_advice(options)}")
    return mean, rate


class _LossWatch:
    """Sums losses and raises at the first one that is not finite; losses are read from the device every few steps."""

    def __init__(self, epoch: int, options: FineTune, every: int):
        self.epoch, self.options, self.every = epoch, options, every
        self.unread: list[tuple[Tensor, int, float]] = []  # loss on its device, samples, learning rate
        self.total, self.samples, self.steps, self.last = 0.0, 0, 0, math.nan

    def add(self, value: Tensor, samples: int, rate: float) -> None:
        """Add the loss of one step."""
        self.unread.append((value, samples, rate))
        if len(self.unread) >= self.every:
            self._read()

    def mean(self) -> float:
        """Mean loss over the samples of the epoch."""
        self._read()
        if not self.steps:
            raise BadInput(
                f"fine-tuning: the train loader gave no batch in epoch {self.epoch + 1}; "
                "expected one that can be iterated again in every epoch"
            )
        return self.total / self.samples

    def _read(self) -> None:
        if not self.unread:
            return
        values = torch.stack([v.float() for v, _, _ in self.unread]).tolist()
        for value, (_, samples, rate) in zip(values, self.unread):
            self.steps += 1
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"loss became {value} in epoch {self.epoch + 1}, step {self.steps} (learning rate {rate:.3g}). "
                    + _advice(self.options)
                )
            self.total += value * samples
            self.samples += samples
            self.last = value
        self.unread = []


def _advice(options: FineTune) -> str:
    precision = ", train in bfloat16 or float32" if options.precision == "float16" else ""
    return f"Lower lr (now {options.lr:g}), set clip=1.0, lengthen the warm-up{precision}, or look for NaN in the data"


def _cross_entropy(options: FineTune) -> Loss:
    def loss(output: Any, targets: Any) -> Tensor:
        logits = first_tensor(output).float()
        if isinstance(targets, Tensor) and targets.device.type == "cpu" and targets.shape != logits.shape:
            check_classes(logits, targets, "fine-tuning")  # other devices would have to be waited for
        try:
            return F.cross_entropy(logits, targets, label_smoothing=options.label_smoothing)
        except (IndexError, RuntimeError) as e:  # a negative number other than -100, or no class numbers
            whole = isinstance(targets, Tensor) and not targets.is_floating_point()
            if isinstance(e, RuntimeError) and (whole or targets.shape == logits.shape):
                raise
            raise BadInput(
                f"fine-tuning: expected class numbers from 0, or -100 for none; {e}. Pass loss= for other targets"
            ) from e

    return loss


def _sgd(parameters: list[nn.Parameter], options: FineTune, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.SGD(
        parameters,
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.momentum > 0,
        fused=fused,
    )


def _adamw(parameters: list[nn.Parameter], options: FineTune, fused: bool) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=fused)


_OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw}  # by `FineTune.optimizer`


def _optimizer(parameters: list[nn.Parameter], options: FineTune) -> torch.optim.Optimizer:
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return _OPTIMIZERS[options.optimizer](parameters, options, fused)


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
