"""The network that a run works on: understood once, with its costs and its calibration data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from sartor.borrow import device_of
from sartor.repair.gap import output_gap
from sartor.run.allowed_groups import allowed_groups
from sartor.run.context import Context
from sartor.structure import Graph
from sartor.structure.example import Example, batch_of, map_tensors, to_device, with_batch
from sartor.train.batch import first_samples
from sartor.types import Calibration, Counted, Recipe

Batch = tuple[Example, Any]  # inputs and targets
_PROOF_SAMPLES = 8


@dataclass(frozen=True)
class Subject:
    """What every stage after `understand` works on."""

    model: nn.Module  # the original; borrowed
    example: Example  # inputs of one sample
    graph: Graph  # with the groups that can be cut in this class
    original: Counted  # costs of the original for one sample
    lost_groups: int = 0  # groups that the algebra of axes found and this class cannot realise
    others: tuple[Example, ...] = ()  # further inputs that the original takes: other sizes, with and without masks
    reading: str = ""  # how a list of example inputs was understood, where there is more than one way
    samples: tuple[Batch, ...] = ()  # calibration batches: scores and repairs read them
    held_out: tuple[Example, ...] = ()  # calibration inputs that scores and repairs never see
    original_outputs: tuple[Tensor, ...] = ()  # of the original on `held_out`

    @property
    def examples(self) -> tuple[Example, ...]:
        """Every kind of input that the cut network must take: the traced one first."""
        return (self.example, *self.others)

    @property
    def inputs(self) -> list[Example]:
        """Calibration inputs without targets."""
        return [x for x, _ in self.samples]

    def calibration(self, samples: int, context: Context) -> Calibration:
        """The calibration batches as scores and repair read them: at most this many samples of them."""
        return Calibration(self.samples or None, loss=context.judge.loss, samples=samples, seed=context.seed)

    def gap(self, model: nn.Module) -> float:
        """Distance of a network's outputs from the original's on the inputs held out; see `output_gap`."""
        return output_gap(model, self.held_out, self.original_outputs)

    def allowed(self, recipe: Recipe) -> Subject:
        """The same with only the groups that a recipe may cut.

        Raises:
            UnknownName, BadInput: see `allowed_groups`.
        """
        return replace(self, graph=allowed_groups(self.graph, recipe))

    def proof_inputs(self, samples: int = _PROOF_SAMPLES) -> Example:
        """Inputs on which a cut is proved: the first calibration samples, or the example where there are none."""
        if not self.samples:
            return to_device(self.example, device_of(self.model))
        first = self.samples[0][0]
        return with_batch(first, min(samples, batch_of(first)))

    def first(self, samples: int) -> Subject:
        """The same with fewer calibration samples."""
        return replace(self, samples=tuple(first_samples(self.samples, samples)))


def apart(batches: Sequence[Batch], first: int) -> tuple[list[Batch], list[Batch]]:
    """The first samples, and the rest; a batch that contains the boundary is split.

    >>> import torch
    >>> data = [(torch.arange(4), torch.arange(4)), (torch.arange(4, 8), torch.arange(4, 8))]
    >>> [[y.tolist() for _, y in part] for part in apart(data, 5)]
    [[[0, 1, 2, 3], [4]], [[5, 6, 7]]]
    """
    front: list[Batch] = []
    back: list[Batch] = []
    for inputs, targets in batches:
        n = batch_of(inputs)
        here = max(0, min(n, first))
        first -= here
        if here:
            front.append((_between(inputs, n, 0, here), _between(targets, n, 0, here)))
        if here < n:
            back.append((_between(inputs, n, here, n), _between(targets, n, here, n)))
    return front, back


def _between(value: Any, n: int, low: int, high: int) -> Any:
    """Samples low to high of every tensor that has n of them."""
    if (low, high) == (0, n):
        return value
    return map_tensors(lambda t: t[low:high] if t.dim() and t.shape[0] == n else t, value)
