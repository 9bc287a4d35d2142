"""Masks on single weights: explicit, so that a live weight whose value is exactly 0 stays live."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from sartor.errors import BadInput
from sartor.sparse.growth.values import grown_values
from sartor.sparse.weight_layers import WeightLayer
from sartor.structure.model_copy import named_tensors
from sartor.types.when import Values


class WeightMasks:
    """Which weights are live in a network that trains. Weights, gradients and the optimizer's state follow in place.

    Args:
        model: inside its wrappers.
        layers: the matrices that take part; everything is live at first.
        optimizer: its state for dead weights is set to zero; None: there is none.

    Raises:
        BadInput: a matrix is no parameter of the model, or has another shape.
    """

    def __init__(self, model: nn.Module, layers: Sequence[WeightLayer], optimizer: Optimizer | None = None):
        present = {name: t for *_, name, t in named_tensors(model)}
        self.layers = {x.name: x for x in layers}
        for x in layers:
            if x.name not in present or tuple(present[x.name].shape) != x.shape:
                raise BadInput(f"weight masks: expected a parameter {x.name!r} of shape {list(x.shape)} in the model")
        self.tensors = {x.name: present[x.name] for x in layers}
        self.optimizer = optimizer
        self.masks = {n: torch.ones_like(t, dtype=torch.bool) for n, t in self.tensors.items()}
        self.memory: dict[str, Tensor] = {}  # the value that each weight had when it died
        self.first: dict[str, Tensor] = {}  # values when the session began, if they are to come back
        self.live = {x.name: x.size for x in layers}  # live weights of every matrix
        self._dead: dict[str, Tensor] = {}

    @property
    def total(self) -> int:
        """Weights of all matrices that take part, live or not."""
        return sum(x.size for x in self.layers.values())

    def remember_first(self) -> None:
        """Keep the present values: those that weights come back with under "rewind"."""
        self.first = {n: t.detach().clone() for n, t in self.tensors.items()}

    @torch.no_grad()
    def adopt(
        self, masks: Mapping[str, Tensor], values: Values = "zero", generator: Generator | None = None,
        *, remember: bool = False,
    ) -> None:  # fmt: skip
        """Let other weights be live.

        Args:
            masks: bool, by parameter, in its shape; a matrix that is not named keeps its mask.
            values: of weights that come back; see `grown_values`.
            generator: for "reinitialise".
            remember: whether the values of weights that die are kept, for "recent".

        Raises:
            BadInput: a mask has another name, shape or dtype.
        """
        for name, given in masks.items():
            self._check(name, given)
            t, before = self.tensors[name], self.masks[name].to(self.tensors[name].device)
            mask = given.to(t.device)
            dying, born = before & ~mask, mask & ~before
            if remember and bool(dying.any()):
                kept = self.memory.get(name)
                self.memory[name] = torch.where(dying, t, torch.zeros_like(t) if kept is None else kept.to(t.device))
            if bool(born.any()):
                stored = {"recent": self.memory, "rewind": self.first}.get(values, {}).get(name)
                t.copy_(torch.where(born, grown_values(values, t, before & mask, stored, generator), t))
            self.masks[name], self.live[name] = mask, int(mask.sum())
            self._dead[name] = ~mask
            self._clear_state(t, ~mask | born)
        self.apply_()

    @torch.no_grad()
    def apply_(self) -> None:
        """Set every dead weight to zero."""
        for name, dead in self._dead.items():
            self.tensors[name].masked_fill_(self._placed(name, dead), 0)

    @torch.no_grad()
    def mask_gradients_(self) -> None:
        """Set the gradients of dead weights to zero, so that the optimizer's state for them stays zero."""
        for name, dead in self._dead.items():
            gradient = self.tensors[name].grad
            if gradient is not None:
                gradient.masked_fill_(self._placed(name, dead), 0)

    @torch.no_grad()
    def applied(self, network: nn.Module) -> nn.Module:
        """A copy of a network of the same class with its dead weights at zero, such as of averaged weights."""
        copied = copy.deepcopy(network)
        tensors = {name: t for *_, name, t in named_tensors(copied)}
        for name, mask in self.masks.items():
            tensors[name].masked_fill_(~mask.to(tensors[name].device), 0)
        return copied

    def state_dict(self) -> dict[str, Any]:
        """Masks and remembered values."""
        tables = {"masks": self.masks, "memory": self.memory, "first": self.first}
        return {key: {n: t.clone() for n, t in table.items()} for key, table in tables.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """The inverse. Dead weights become zero in the model, which they are in a checkpoint of the same step."""
        for name, mask in state["masks"].items():
            self._check(name, mask)
        for table in ("memory", "first"):
            for name, t in state[table].items():
                if name not in self.tensors or t.shape != self.tensors[name].shape:
                    raise BadInput(
                        f"session state, {table} of {name!r}: expected a matrix of this session in its shape"
                    )
        self.masks = {n: m.to(self.tensors[n].device, copy=True) for n, m in state["masks"].items()}
        self.memory = {n: t.to(self.tensors[n].device, copy=True) for n, t in state["memory"].items()}
        self.first = {n: t.to(self.tensors[n].device, copy=True) for n, t in state["first"].items()}
        self.live = {n: int(m.sum()) for n, m in self.masks.items()}
        self._dead = {n: ~m for n, m in self.masks.items() if not bool(m.all())}
        self.apply_()

    def _placed(self, name: str, dead: Tensor) -> Tensor:
        """The dead weights on the device where the parameter is now."""
        device = self.tensors[name].device
        if dead.device != device:
            dead = self._dead[name] = dead.to(device)
        return dead

    def _clear_state(self, parameter: Tensor, where: Tensor) -> None:
        if self.optimizer is None:
            return
        for value in self.optimizer.state.get(parameter, {}).values():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                value.masked_fill_(where, 0)

    def _check(self, name: str, mask: Any) -> None:
        if name not in self.tensors:
            raise BadInput(f"weight masks: {name!r} is none of the {len(self.tensors)} matrices that take part")
        shape = self.tensors[name].shape
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != shape:
            what = f"{mask.dtype} {list(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise BadInput(f"weight mask of {name!r}: expected a bool tensor {list(shape)}; got {what}")


__all__ = ["WeightMasks"]
