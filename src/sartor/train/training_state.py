"""Everything that changes while a network is trained, as named parts that a checkpoint holds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.errors import CorruptFile
from sartor.export.parts import add_values
from sartor.seed import global_states, own_states, set_global_states, set_own_states
from sartor.structure.example import tensors
from sartor.structure.model_copy import named_tensors
from sartor.train.step import TrainingStep


class TrainingState:
    """The course of one training.

    Args:
        step: holds the network, the optimiser, the scaler and the average.
        owners: loaders and the like whose own generators are kept, too.
    """

    def __init__(self, step: TrainingStep, owners: Sequence[Any]):
        self.step, self.owners = step, owners
        self.epoch, self.done = 0, 0  # epochs finished, steps done in the next one
        self.rows: list[dict[str, Any]] = []
        self.best_epoch: int | None = None
        self.best_val = -math.inf
        self.best_state: dict[str, Any] | None = None
        self.rate_scale, self.setbacks = 1.0, 0
        self.first_loss: float | None = None  # of the first step of the training
        self.total, self.samples = 0.0, 0  # of the losses in this epoch, and of what they are means over
        self.at_start = own_states(owners)  # generators of the owners at the start of the epoch
        self.before: dict[str, Any] | None = None  # all generators before the last batch was read
        self.after = _generators(owners)  # ... and after the last step
        self.batch: Any = None  # the last one that was trained on
        self.whole = True  # False within a step
        self.settle: Callable[[], None] = lambda: None  # makes the sums of the losses complete

    def mark(self, batch: Any = None) -> None:
        """Remember the generators after a step, or before the first one."""
        self.before, self.after, self.batch = self.after, _generators(self.owners), batch

    def begin_epoch(self) -> None:
        """No step of the next epoch is done."""
        self.done, self.total, self.samples = 0, 0.0, 0
        self.at_start = own_states(self.owners)
        self.before, self.after, self.batch = None, _generators(self.owners), None

    def parts(self) -> dict[str, Any]:
        """Name -> value, without copies."""
        step, average = self.step, self.step.average
        return {
            "epoch": self.epoch,
            "step": self.done,
            "model": tensors_of(step.model),
            "optimizer": step.optimizer.state_dict(),
            "scaler": step.scaler.state_dict(),
            "average": None if average is None else average.state_dict(),
            "pruning": None if step.pruning is None else step.pruning.state_dict(),
            "rows": [dict(row) for row in self.rows],
            "best": {"epoch": self.best_epoch, "val": self.best_val, "state": self.best_state},
            "rate": {"scale": self.rate_scale, "setbacks": self.setbacks, "first_loss": self.first_loss},
            "loss": {"total": self.total, "samples": self.samples},
            "generators": {"at_start": self.at_start, "before": self.before, "after": self.after},
            "batch": None if self.batch is None else batch_digest(self.batch),
        }

    def load(self, parts: Mapping[str, Any]) -> None:
        """Take the state of a checkpoint. Generators are put back by `replay`, or at the start of the epoch.

        Raises:
            CorruptFile: the parts are not those of this training.
        """
        step = self.step
        try:
            load_tensors_(step.model, parts["model"])
            step.optimizer.load_state_dict(parts["optimizer"])
            _like_parameters(step.optimizer)
            step.scaler.load_state_dict(parts["scaler"])
            if step.average is not None:
                step.average.load_state_dict(parts["average"])
            if step.pruning is not None:
                step.pruning.load_state_dict(parts["pruning"])
            self.epoch, self.done = int(parts["epoch"]), int(parts["step"])
            self.rows = [dict(row) for row in parts["rows"]]
            best, rate, loss, generators = parts["best"], parts["rate"], parts["loss"], parts["generators"]
            self.best_epoch, self.best_val, self.best_state = best["epoch"], best["val"], best["state"]
            self.rate_scale, self.setbacks, self.first_loss = rate["scale"], rate["setbacks"], rate["first_loss"]
            self.total, self.samples = loss["total"], loss["samples"]
            self.at_start, self.before, self.after = (generators[k] for k in ("at_start", "before", "after"))
            self.batch, self.whole = None, True
            set_own_states(self.owners, self.at_start)
            set_global_states(self.after["global"])
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as e:
            raise CorruptFile(f"checkpoint: does not fit this training; {type(e).__name__}: {e}") from e

    def replay(self, iterator: Iterable[Any], digest: str | None) -> bool:
        """Read the batches of the steps that are done; whether the last of them is the one that was trained on.

        Args:
            iterator: over the batches of this epoch, begun with the generators of its start.
            digest: of the last batch, as `batch_digest` gives it.
        """
        batches = iter(iterator)
        batch = None
        for i in range(self.done):
            if i == self.done - 1 and self.before is not None:
                _set_generators(self.owners, self.before)
            batch = next(batches, None)
        _set_generators(self.owners, self.after)
        self.batch = batch
        return batch is not None and batch_digest(batch) == digest


def batch_digest(batch: Any) -> str:
    """SHA-256 over the tensors of a batch."""
    digest = hashlib.sha256()
    for t in tensors(batch):
        digest.update(f"{t.dtype} {list(t.shape)}".encode())
        if t.layout is torch.strided and not t.is_quantized:
            add_values(digest, torch.view_as_real(t.resolve_conj()) if t.is_complex() else t)
    return digest.hexdigest()


def load_tensors_(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy parameters and buffers into a model; all of them or, if one does not fit, none.

    Raises:
        ValueError: names, shapes or dtypes differ; names the first difference.
    """
    own = tensors_of(model)
    if own.keys() != values.keys():
        different = sorted(own.keys() ^ values.keys())
        raise ValueError(f"expected tensors of the same names; differing: {', '.join(different[:4])}")
    for name, t in own.items():
        if values[name].shape != t.shape or values[name].dtype != t.dtype:
            got = f"{list(values[name].shape)} {values[name].dtype}"
            raise ValueError(f"{name}: expected {list(t.shape)} {t.dtype}; got {got}")
    with torch.no_grad():
        for name, t in own.items():
            t.copy_(values[name])


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, tied ones once."""
    seen: dict[int, str] = {}
    return {name: t for *_, name, t in named_tensors(model) if seen.setdefault(id(t), name) == name}


def _generators(owners: Sequence[Any]) -> dict[str, Any]:
    return {"global": global_states(), "own": own_states(owners)}


def _set_generators(owners: Sequence[Any], states: Mapping[str, Any]) -> None:
    set_own_states(owners, states["own"])
    set_global_states(states["global"])


def _like_parameters(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser's tensors the memory format of their parameters, which fused optimisers rely on."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != parameter.stride():
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


__all__ = ["TrainingState", "batch_digest", "load_tensors_", "tensors_of"]
