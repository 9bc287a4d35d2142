"""One optimiser step on one batch, with its loss and its optimiser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sartor.borrow import device_of
from sartor.errors import BadInput
from sartor.structure.example import batch_of, call, call_in_training, first_tensor
from sartor.train.average import Average
from sartor.train.batch import move, split
from sartor.train.distill import distillation
from sartor.train.pruning import Pruning
from sartor.train.targets import check_classes
from sartor.types import FineTune

Loss = Callable[[Any, Any], Tensor]
_DTYPE = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class TrainingStep:
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
        self.pruning: Pruning | None = None  # None: every unit stays
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
            output = call_in_training(self.model if self.pruning is None else self.pruning.network, inputs)
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
        if self.pruning is not None:
            self.pruning.step()
        if self.average:
            self.average.update()
        return value.detach(), batch_of(inputs)


def cross_entropy(options: FineTune) -> Loss:
    """Cross entropy of the logits with label smoothing; refuses labels that the network has no output for."""

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


def optimizer_of(parameters: list[nn.Parameter], options: FineTune) -> torch.optim.Optimizer:
    """The optimiser that the options name."""
    fused = all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters)
    return _OPTIMIZERS[options.optimizer](parameters, options, fused)


__all__ = ["Loss", "TrainingStep", "cross_entropy", "optimizer_of"]
