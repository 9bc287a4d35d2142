"""One workload: a small network of some field with its inputs, data, training, quality and what a cut must preserve."""

from __future__ import annotations

import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sartor.borrow import borrowed
from sartor.registry import Registry
from sartor.seed import seeded
from sartor.structure.example import Example, call, first_tensor
from sartor.types import Data

W = TypeVar("W", bound="type[Workload]")


class Workload(ABC):
    """A network of one field. A subclass that is registered with `workload` goes through the whole contract.

    Batches are pairs (inputs, targets); the inputs are an example as everywhere in Sartor.
    """

    name: ClassVar[str]
    field: ClassVar[str]
    source: ClassVar[str]
    preserves: ClassVar[str]  # what `violation` measures, for tables
    quality_name: ClassVar[str] = "accuracy"
    lr: ClassVar[float] = 3e-3
    warm_up: ClassVar[int] = 1  # epochs of the original before it is cut
    budget: ClassVar[str] = "macs"  # what the contract cuts by 30 %: a counted metric of a budget
    tolerance: ClassVar[float] = 1e-4  # of `violation`

    @abstractmethod
    def network(self) -> nn.Module:
        """A network with fresh weights, drawn from torch's global generator."""

    @abstractmethod
    def examples(self) -> Sequence[Example]:
        """Inputs of several sizes. The first one is traced; a cut network must take the others as well."""

    @abstractmethod
    def data(self) -> Data:
        """Batches to train on and to judge by; the same at every call."""

    def build(self) -> nn.Module:
        """The same weights at every call, in evaluation mode."""
        with seeded(self.seed):
            return self.network().eval()

    @property
    def seed(self) -> int:
        """Of weights and data, derived from the name."""
        return zlib.crc32(self.name.encode()) % 2**31

    def loss(self) -> Callable[[Any, Any], Tensor]:
        """A function loss(output, targets) -> scalar; a new one at every call, because it may hold a state."""
        return lambda output, targets: F.cross_entropy(first_tensor(output), targets)

    def score(self, output: Any, targets: Any) -> float:
        """Quality of the outputs of one batch, larger is better; top-1 accuracy in percent unless overridden."""
        return 100 * float((first_tensor(output).argmax(-1) == targets).double().mean())

    def begin(self, model: nn.Module) -> None:
        """Called before a pass over batches, where a network that keeps a state forgets it. By default: nothing."""
        del model

    def quality(self, model: nn.Module, batches: Sequence[Any]) -> float:
        """Mean of `score` over batches, in evaluation mode."""
        with torch.no_grad(), borrowed(model):
            self.begin(model)
            scores = [self.score(call(model, inputs), targets) for inputs, targets in batches]
        return sum(scores) / len(scores)

    def violation(self, model: nn.Module) -> float:
        """How far the network is from what it must preserve, relative; 0 is perfect. At most `tolerance` is required.

        Unless overridden: how far two forwards in a row differ, which a state kept from the first one would show.
        """
        example = self.examples()[0]
        with torch.no_grad(), borrowed(model):
            return difference(call(model, example), call(model, example))


WORKLOADS: Registry[Workload] = Registry("workload")


def workload(name: str, *, field: str, source: str, preserves: str) -> Callable[[W], W]:
    """Register a workload.

    Args:
        name: of the network.
        field: that it comes from, for the table.
        source: publication.
        preserves: what must hold after a cut as before, in words.
    """

    def register(made: W) -> W:
        made.name, made.field, made.source, made.preserves = name, field, source, preserves
        WORKLOADS.add(name, made(), source=source, summary=(made.__doc__ or "").strip().split("\n")[0])
        return made

    return register


def train_(model: nn.Module, entry: Workload, epochs: int, batches: Sequence[Any] | None = None) -> list[float]:
    """Train in place with Adam; returns the loss of every step. The model is in evaluation mode afterwards."""
    given = entry.data().train if batches is None else batches
    assert given is not None
    loss_of, losses = entry.loss(), []
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], entry.lr)
    with seeded(entry.seed):
        model.train()
        for _ in range(epochs):
            entry.begin(model)
            for inputs, targets in given:
                optimizer.zero_grad()
                loss = loss_of(call(model, inputs), targets)
                loss.backward()
                nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                losses.append(float(loss.detach()))
    model.eval()
    return losses


def difference(one: Any, other: Any) -> float:
    """Largest difference between the first tensors of two outputs, relative to the largest value of the second."""
    a, b = first_tensor(one), first_tensor(other)
    return float((a - b).abs().max() / b.abs().max().clamp(min=1e-12))


__all__ = ["WORKLOADS", "Workload", "difference", "train_", "workload"]
