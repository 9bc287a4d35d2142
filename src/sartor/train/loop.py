"""Fine-tuning: one loop, reproducible from its seed."""

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

from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput, NothingToDo, TrainingDiverged
from sartor.schedule.cosine import cosine_with_warmup
from sartor.seed import seed_everything, seeded
from sartor.structure.example import batch_of, call, first_tensor
from sartor.train.average import Average
from sartor.train.batch import move, split
from sartor.train.distill import distillation
from sartor.train.evaluate import accuracy
from sartor.types import FineTune

Loss = Callable[[Any, Any], Tensor]
Progress = Callable[[str, float | None, str], None]
_DTYPE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CHECK_EVERY = {"cpu": 1}  # steps between looks at the loss: a look is free on a CPU and waits for the device elsewhere


@dataclass(frozen=True)
class History:
    """What happened, epoch by epoch.

    Each row holds "epoch" (from 1), "loss" (mean over samples), "val" (quality, larger is better; None without a
    judge), "lr" (at the last step) and "seconds".
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
        """The row of the last epoch: what the model holds."""
        return self.epochs[-1]

    @property
    def best(self) -> dict[str, Any] | None:
        """The row of the epoch that validation would choose."""
        return self.epochs[self.best_epoch - 1] if self.best_epoch else None


def fine_tune(
    model: nn.Module,
    train: Iterable[Any],
    *,
    options: FineTune,
    val: Iterable[Any] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    teacher: nn.Module | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
    on_epoch: Callable[[dict[str, Any]], None] | None = None,
) -> History:
    """Train the model in place; it ends with the weights of the last epoch (their average if `options.ema`).

    Reproducible: the same seed, data and machine give the same weights, bit for bit. Every epoch starts from generators
    seeded with (seed, epoch), so dropout and DataLoaders that draw from torch's own generator repeat; a loader with a
    generator of its own is its owner's to reseed. A loader or sampler with `set_epoch` is told the epoch, from 0.

    Args:
        model: trained in place; parameters that require no gradient stay. Ends on `device`, modes as before.
        train: can be iterated once an epoch; batches as `sartor.train.split` reads them.
        options: see `FineTune`. Learning rate: linear warm-up, then a cosine to 0, read in the middle of each step;
            without a length of `train` it moves once an epoch. SGD uses Nesterov's momentum. Every parameter decays.
        val: batches the default judge, top-1 accuracy in percent, looks at after every epoch.
        evaluate: another judge, `evaluate(model) -> float`, larger is better; it replaces the default one.
        teacher: the original. loss = (1 - distill) * loss + distill * T^2 KL. Left as it was, copied when it has to
            move. None: no distillation.
        loss: `loss(output, targets) -> scalar`, mean over samples; None: cross entropy of the logits, labels smoothed.
        seed: any integer.
        device: None: where the model lies.
        progress: called as ("train", done in [0, 1] or None, text) a few times a second.
        on_epoch: called with each row of the history.

    Returns:
        The history, with the state that validation would choose in `best_state`.

    Raises:
        NothingToDo: no epochs are asked for or no parameter can be trained.
        TrainingDiverged: loss or weights became NaN or infinite; says where. The model is then of no use.
        BadInput: the loader gave no batch, a batch cannot be read, or the model is its own teacher.
    """
    if teacher is model:
        raise BadInput("fine-tuning: expected the original as teacher; got the model that is being trained")
    if options.epochs == 0:
        raise NothingToDo("fine-tuning: expected at least one epoch; got 0")
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise NothingToDo("fine-tuning: no parameter of the model requires a gradient")
    where = torch.device(device) if device is not None else device_of(model)
    judge = evaluate if evaluate is not None else _judge(val, where)
    with ExitStack() as stack:
        stack.enter_context(seeded(seed))
        stack.enter_context(_repeatable(where))
        stack.enter_context(borrowed(model, training=True))
        model.to(where)
        if options.channels_last:
            stack.enter_context(_channels_last(model))
        if teacher is not None and options.distill > 0:
            teacher = _teacher_on(teacher, where, options)
            stack.enter_context(borrowed(teacher))
        else:
            teacher = None
        optimizer = _optimizer(trained, options)
        average = Average(model, options.ema) if options.ema else None
        step = _Step(model, optimizer, options, where, loss or _cross_entropy(options), teacher, average)
        rows: list[dict[str, Any]] = []
        best_epoch, best_state, best_val = None, None, -math.inf
        for epoch in range(options.epochs):
            started = time.perf_counter()
            mean, rate = _one_epoch(step, train, epoch, seed, progress)
            quality = None
            with average.applied() if average else nullcontext():
                if judge is not None:
                    quality = float(judge(model))
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
        device: torch.device,
        loss: Loss,
        teacher: nn.Module | None,
        average: Average | None,
    ):
        self.model, self.optimizer, self.options, self.device = model, optimizer, options, device
        self.loss, self.teacher, self.average = loss, teacher, average
        self.scaler = torch.amp.GradScaler(device.type, enabled=options.precision == "float16")

    def __call__(self, batch: Any, rate: float) -> tuple[Tensor, int]:
        """(loss, samples) of the batch; the loss stays on the device."""
        options = self.options
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        inputs, targets = split(batch)
        inputs = move(inputs, self.device, channels_last=options.channels_last)
        targets = move(targets, self.device)
        with torch.autocast(self.device.type, _DTYPE[options.precision], enabled=options.precision != "float32"):
            output = call(self.model, inputs)
            value = self.loss(output, targets)
            if self.teacher is not None:
                with torch.no_grad():
                    soft = first_tensor(call(self.teacher, inputs))
                taught = distillation(first_tensor(output), soft, options.temperature)
                value = (1 - options.distill) * value + options.distill * taught
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


def _one_epoch(
    step: _Step, train: Iterable[Any], epoch: int, seed: int, progress: Progress | None
) -> tuple[float, float]:
    """(mean loss over samples, learning rate of the last step)."""
    options = step.options
    steps = _length(train)
    seed_everything((seed * 1_000_003 + epoch) % 2**63)
    for holder in (train, getattr(train, "sampler", None), getattr(train, "batch_sampler", None)):
        set_epoch = getattr(holder, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)
    step.model.train()
    watch = _Watch(epoch, options, _CHECK_EVERY.get(step.device.type, 20))
    told = -math.inf
    rate = 0.0
    for i, batch in enumerate(train):
        within = min(1.0, (i + 0.5) / steps) if steps else 0.5
        done = (epoch + within) / options.epochs
        rate = options.lr * cosine_with_warmup(done, warmup=options.warmup)
        watch.add(*step(batch, rate), rate)
        if progress and time.monotonic() - told > 0.2:
            told = time.monotonic()
            of = f"/{steps}" if steps else ""
            progress(
                "train",
                done,
                f"epoch {epoch + 1}/{options.epochs} step {i + 1}{of} loss {watch.last:.4f} lr {rate:.3g}",
            )
    mean = watch.mean()
    for name, p in step.model.named_parameters():
        if not bool(torch.isfinite(p).all()):
            raise TrainingDiverged(f"weights {name!r} became NaN or infinite in epoch {epoch + 1}. {_advice(options)}")
    return mean, rate


class _Watch:
    """Adds losses up and raises at the first that is not finite, looking every few steps."""

    def __init__(self, epoch: int, options: FineTune, every: int):
        self.epoch, self.options, self.every = epoch, options, every
        self.waiting: list[tuple[Tensor, int, float]] = []
        self.total, self.samples, self.steps, self.last = 0.0, 0, 0, math.nan

    def add(self, value: Tensor, samples: int, rate: float) -> None:
        self.waiting.append((value, samples, rate))
        if len(self.waiting) >= self.every:
            self._look()

    def mean(self) -> float:
        self._look()
        if not self.steps:
            raise BadInput(
                f"fine-tuning: the train loader gave no batch in epoch {self.epoch + 1}; "
                "expected one that can be iterated anew every epoch"
            )
        return self.total / self.samples

    def _look(self) -> None:
        if not self.waiting:
            return
        values = torch.stack([v.float() for v, _, _ in self.waiting]).tolist()
        for value, (_, samples, rate) in zip(values, self.waiting):
            self.steps += 1
            if not math.isfinite(value):
                raise TrainingDiverged(
                    f"loss became {value} in epoch {self.epoch + 1}, step {self.steps} (learning rate {rate:.3g}). "
                    + _advice(self.options)
                )
            self.total += value * samples
            self.samples += samples
            self.last = value
        self.waiting = []


def _advice(options: FineTune) -> str:
    half = ", train in bfloat16 or float32" if options.precision == "float16" else ""
    return f"Lower lr (now {options.lr:g}), set clip=1.0, lengthen the warm-up{half}, or look for NaN in the data"


def _judge(val: Iterable[Any] | None, device: torch.device) -> Callable[[nn.Module], float] | None:
    return None if val is None else lambda model: accuracy(model, val, device)


def _cross_entropy(options: FineTune) -> Loss:
    return lambda output, targets: F.cross_entropy(
        first_tensor(output).float(), targets, label_smoothing=options.label_smoothing
    )


def _optimizer(parameters: list[nn.Parameter], options: FineTune) -> torch.optim.Optimizer:
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay, fused=fused)
    return torch.optim.SGD(
        parameters,
        lr=options.lr,
        momentum=options.momentum,
        weight_decay=options.weight_decay,
        nesterov=options.momentum > 0,
        fused=fused,
    )


def _teacher_on(teacher: nn.Module, device: torch.device, options: FineTune) -> nn.Module:
    """The teacher itself where nothing has to change, else a copy."""
    if device_of(teacher) == device and not options.channels_last:
        return teacher
    moved = copy.deepcopy(teacher).to(device)
    return moved.to(memory_format=torch.channels_last) if options.channels_last else moved


def _snapshot(model: nn.Module) -> dict[str, Any]:
    """The state on the CPU, in the plain memory layout, sharing nothing with the model."""

    def one(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return copy.deepcopy(value)
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)

    return {name: one(value) for name, value in model.state_dict().items()}


def _length(loader: Iterable[Any]) -> int | None:
    try:
        return len(loader)  # type: ignore[arg-type]
    except TypeError:
        return None


@contextmanager
def _channels_last(model: nn.Module) -> Iterator[None]:
    """Weights lie channels last inside the block and as before afterwards."""
    plain = [p for p in model.parameters() if p.dim() == 4 and p.is_contiguous()]
    model.to(memory_format=torch.channels_last)
    try:
        yield
    finally:
        for p in plain:
            p.data = p.data.contiguous()
            p.grad = None


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """cuDNN chooses algorithms that give the same bits every time; other devices do so by themselves."""
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
