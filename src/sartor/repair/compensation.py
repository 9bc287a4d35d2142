"""GRAIL: what a layer read is predicted from what it still reads, and the prediction is put into its weights.

One Gram matrix of the original's channels in front of each layer gives the ridge regression from kept channels to all
of them; the layer's weights times this map are the new ones. Layers do not know of each other, nothing is added to
biases, and residual sums and non-linearities behind a layer are not looked at: that is what `refit_consumers_` adds.

Source: Tang et al. 2026, "GRAIL", PMLR 328, arXiv:2602.23795. There the strength of the ridge is a constant; here it is
relative to the mean square of a channel, so that it means the same in every layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sartor.activations.micro_batches import parts, samples_within, working_memory
from sartor.activations.patches import Reading
from sartor.activations.row_moments import layer_moments
from sartor.borrow import device_of
from sartor.errors import BadInput
from sartor.repair.original import Original
from sartor.structure.axes import keep_mask
from sartor.structure.example import Example
from sartor.structure.model_copy import named_tensors

_ROWS = 50_000  # positions read for one layer
_STRENGTH = 1e-3  # of the ridge, relative to the mean square of a channel


def compensate_(smaller: nn.Module, original: Original, batches: Sequence[Example], *, seed: int = 0) -> int:
    """Give every layer that lost inputs the weights that make up for them; returns how many layers that are.

    Args:
        smaller: cut from the original; its weights change.
        original: the network before the cut, and the cut.
        batches: calibration inputs.
        seed: draws the positions.

    Raises:
        BadInput: no calibration inputs.
    """
    if not batches:
        raise BadInput("compensation: expected calibration inputs; got none")
    original = original.renumbered()
    model, graph, masks = original.model, original.graph, original.masks
    layers = {}
    for op in graph.ops:
        reading = Reading.of(op) if op.live else None
        if reading is not None and not bool(keep_mask(reading.weight.axes[1], masks).all()):
            layers[op.index] = reading
    most = samples_within(graph, device_of(model), working_memory() // 2)
    pieces = [p for b in batches for p in parts(b, most)]
    generator = torch.Generator().manual_seed(seed)
    moments = layer_moments(graph, model, pieces, layers, rows=_ROWS, generator=generator)
    tensors, originals = ({name: t.detach() for *_, name, t in named_tensors(m)} for m in (smaller, model))
    done: set[str] = set()
    for index, reading in layers.items():
        name = reading.weight.name
        if index not in moments or name is None or name in done:
            continue
        done.add(name)
        kept = keep_mask(reading.weight.axes[1], masks).nonzero()[:, 0]
        rows = keep_mask(reading.weight.axes[0], masks).nonzero()[:, 0]
        weight = originals[name].double()
        taps = math.prod(weight.shape[2:])
        to_all = _map(_channels(moments[index].second, taps), kept.to(weight.device))
        split = weight.reshape(reading.groups, -1, weight.shape[1], taps)
        merged = torch.einsum("goct,gck->gokt", split, to_all)
        merged = merged.reshape(weight.shape[0], len(kept), *weight.shape[2:])
        tensors[name].copy_(merged[rows.to(weight.device)].to(tensors[name]))
    return len(done)


def _channels(second: Tensor, taps: int) -> Tensor:
    """[groups, channels * taps, .] -> [groups, channels, channels]: the mean over the taps of a kernel."""
    groups, inputs, _ = second.shape
    split = second.reshape(groups, inputs // taps, taps, inputs // taps, taps)
    return split.diagonal(dim1=2, dim2=4).mean(-1)


def _map(second: Tensor, kept: Tensor) -> Tensor:
    """The ridge regression from kept channels to all: [groups, channels, kept].

    >>> twins = torch.ones(1, 2, 2, dtype=torch.float64)
    >>> _map(twins, torch.tensor([0])).flatten().round(decimals=2).tolist()
    [1.0, 1.0]
    """
    among = second[:, kept][:, :, kept]
    size = among.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
    eye = torch.eye(len(kept), dtype=second.dtype, device=second.device)
    return torch.linalg.solve(among + _STRENGTH * size[:, None, None] * eye, second[:, kept]).transpose(1, 2)


__all__ = ["compensate_"]
