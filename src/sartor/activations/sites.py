"""Where activations carry the units of a group, and whose sample each value is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sartor.structure import Graph, Site
from sartor.structure.axes import Axis, find, leaves
from sartor.structure.calls import Op, Value
from sartor.structure.example import tensors


def sites(graph: Graph, group: str, at: str) -> list[Site]:
    """The places where a criterion reads activations: inputs of readers ("read") or outputs of writers ("written").

    A group that has places of only one kind is read at those; one that has neither gets an empty list.
    """
    if at == "read":
        return graph.sites(group)
    reads, writes = graph._sites[find(graph.leaves[graph.group(group).name])]
    return writes or reads


def read_sites(graph: Graph, group: str) -> list[Site]:
    """Places whose operator sums over the units, not those whose operator passes each unit on by itself.

    A depthwise convolution passes its units on; counting it and its reader would count one path twice.
    """
    leaf = find(graph.leaves[graph.group(group).name])
    places = graph.sites(group)
    return [s for s in places if s.slot == "in0" and _sums_over(graph.ops[s.op], leaf)] or places


def _sums_over(op: Op, leaf: Axis) -> bool:
    first = _first(op)
    inside = sum(leaf in leaves(a) for v in op.inputs if v is not first and v.ndim > 1 for a in v.axes)
    return inside > sum(leaf in leaves(a) for v in op.outputs[:1] for a in v.axes)


def _first(op: Op) -> Value | None:
    return next((a for a in op.args if isinstance(a, Value)), None)


def site_value(site: Site, args: tuple[Any, ...], out: Any) -> Tensor:
    """The tensor of a place, from the arguments and the result of its operator."""
    return next(tensors(out if site.slot == "out" else args))


def unit_dim(graph: Graph, site: Site, value: Tensor) -> int | None:
    """The dimension of a place's tensor that carries the units, in a forward that may run at other sizes.

    None where the tensor has no dimension of the traced size there: then its units are not those of the group. A linear
    layer may read a tensor of another rank than when traced: its features are the last dimension in any case.
    """
    op = graph.ops[site.op]
    traced = _traced(graph, site)
    if traced is None:
        return None
    dim = site.dim
    if value.dim() != traced.ndim:
        if op.kind != "linear" or site.dim != traced.ndim - 1:
            return None
        dim = value.dim() - 1
    return dim if dim >= 0 and value.shape[dim] == traced.shape[site.dim] else None


def sample_dim(graph: Graph, site: Site, value: Tensor, n: int) -> int | None:
    """The dimension of a place's tensor that counts the n samples of a batch.

    It is the one dimension whose size differs from the tracing run. For equal batches, and where more sizes differ (of
    another length too), it is the one with the axis of the model's input, or the only one that could be.
    None where the samples are part of a larger dimension, or of none.
    """
    traced = _traced(graph, site)
    inputs = [v for v in graph.inputs if v.ndim]
    if traced is None or traced.ndim != value.dim() or not inputs:
        return None
    batch = inputs[0].shape[0]
    changed = [d for d, size in enumerate(traced.shape) if size != value.shape[d]]
    if n != batch and len(changed) == 1:
        dims = changed
    else:
        dims = [d for d, a in enumerate(traced.axes) if find(a) is find(inputs[0].axes[0])]
        if n != batch and len(dims) != 1:
            dims = changed
    fits = [d for d in dims if n == batch or (traced.shape[d] == batch and value.shape[d] == n)]
    return fits[0] if len(fits) == 1 and fits[0] != site.dim else None


def _traced(graph: Graph, site: Site) -> Value | None:
    op = graph.ops[site.op]
    return _first(op) if site.slot == "in0" else op.outputs[0]


@dataclass(frozen=True)
class Carried:
    """What the units of a group carry at one place, for one batch: [units, samples, rest], gathered on access.

    `samples` is the dimension of the tensor that counts them; None: all of it is one sample.
    """

    tensor: Tensor
    dim: int
    positions: Tensor
    samples: int | None

    @property
    def n(self) -> int:
        """Samples."""
        return 1 if self.samples is None else self.tensor.shape[self.samples]

    @property
    def per_sample(self) -> int:
        """Elements of one sample."""
        return self.tensor.numel() // max(1, self.n)

    def between(self, low: int, high: int) -> Tensor:
        """[units, high - low, rest] of some of the samples, float32 or wider."""
        some = self.tensor if self.samples is None else self.tensor.narrow(self.samples, low, high - low)
        view = unit_samples(some, self.dim, self.positions, self.samples)
        return view.float() if view.is_floating_point() and view.itemsize < 4 else view


def unit_samples(value: Tensor, dim: int, positions: Tensor, samples: int | None = 0) -> Tensor:
    """[units, samples, rest] of one tensor whose dimension `dim` carries the units at `positions` [units, k].

    Args:
        value: any shape.
        dim: of the units.
        positions: indices along it.
        samples: dimension of the samples, another one; None: all of it is one sample.

    >>> unit_samples(torch.zeros(5, 6, 2, 2), 1, torch.arange(6).reshape(3, 2)).shape
    torch.Size([3, 5, 8])
    """
    units, times = positions.shape
    whole = times == 1 and torch.equal(positions[:, 0], torch.arange(value.shape[dim]))
    if samples is None:
        rows = value.movedim(dim, 0)
        return (rows if whole else rows[positions.to(value.device)]).reshape(units, 1, -1)
    rows = value.movedim((dim, samples), (0, 1))
    if not whole:
        rows = rows[positions.to(value.device)].movedim(2, 1)  # [units, k, samples, ...] -> [units, samples, k, ...]
    return rows.reshape(units, value.shape[samples], -1)
