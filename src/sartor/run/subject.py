"""A network understood once, with its costs and its calibration data, for trying many plans on it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import device_of
from sartor.cost import count
from sartor.errors import BadInput
from sartor.repair.gap import output_gap, outputs
from sartor.run.cuttable import cuttable
from sartor.structure import Graph, trace
from sartor.structure.example import Example, batch_of, map_tensors, to_device, with_batch
from sartor.surgery import probe
from sartor.train.batch import first_samples
from sartor.types import Counted, Recipe

Batch = tuple[Example, Any]  # inputs and targets
_HELD_OUT = 0.2  # of all calibration samples: judge plans, and nothing else


@dataclass(frozen=True)
class Subject:
    """What all plans of a sweep share."""

    model: nn.Module  # the original; borrowed
    example: Example  # inputs of one sample
    graph: Graph
    original: Counted
    samples: tuple[Batch, ...]  # calibration: scores and repairs
    held_out: tuple[Example, ...]  # calibration inputs that scores and repairs never see
    wanted: tuple[Tensor, ...]  # the original's outputs on them

    @property
    def inputs(self) -> list[Example]:
        """Calibration inputs without targets."""
        return [x for x, _ in self.samples]

    def gap(self, model: nn.Module) -> float:
        """Distance of a network's outputs from the original's on the inputs held out; see `output_gap`."""
        return output_gap(model, self.held_out, self.wanted)

    def cuttable(self, recipe: Recipe) -> Graph:
        """The graph with the groups that a recipe may cut."""
        return cuttable(self.graph, recipe)

    def proof_inputs(self, samples: int = 8) -> Example:
        """A few calibration inputs to prove a cut on."""
        first = self.samples[0][0]
        return with_batch(first, min(samples, batch_of(first)))

    def first(self, samples: int) -> Subject:
        """The same with fewer calibration samples."""
        return replace(self, samples=tuple(first_samples(self.samples, samples)))


def understand(
    model: nn.Module,
    source: Iterable[Any],
    *,
    example: Example,
    calibration: int,
    device: torch.device | str | None = None,
) -> Subject:
    """Trace, count, and set calibration data apart.

    Args:
        model: borrowed; on another device than `device` a copy is taken.
        source: calibration batches, as `sartor.train.split` reads them.
        example: inputs the network can be called with.
        calibration: samples for scores and repairs, at most. A quarter as many are taken after them and held out; of a
            source with too few samples, a fifth is held out.
        device: where to compute; None: where the model lies.

    Raises:
        BadInput: nothing can be cut, or fewer than two calibration samples.
    """
    where = torch.device(device) if device is not None else device_of(model)
    if where != device_of(model):
        model = copy.deepcopy(model).to(where)
    example = to_device(map_tensors(lambda t: t.detach(), with_batch(example, 1)), where)
    graph = probe(model, trace(model, example))
    if not graph.groups:
        reasons = "; ".join(dict.fromkeys(f.reason for f in graph.frozen[:3]))
        raise BadInput(f"nothing in this model can be cut: {reasons or 'it has no parameters in use'}")
    wished = calibration + max(1, round(calibration * _HELD_OUT / (1 - _HELD_OUT)))
    batches = [to_device(b, where) for b in first_samples(source, wished)]
    total = sum(batch_of(x) for x, _ in batches)
    if total < 2:
        raise BadInput(f"calibration: expected at least 2 samples, one of them to judge by; got {total}")
    front, back = apart(batches, min(calibration, total - max(1, round(_HELD_OUT * total))))
    held = tuple(x for x, _ in back)
    return Subject(model, example, graph, count(graph), tuple(front), held, tuple(outputs(model, held)))


def apart(batches: Sequence[Batch], first: int) -> tuple[list[Batch], list[Batch]]:
    """The first samples, and the rest; a batch that lies across is split.

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
