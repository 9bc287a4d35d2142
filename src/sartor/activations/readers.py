"""The weights with which operators read the units of a group, scaled by the batch norm behind the operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sartor.structure import Graph, Site
from sartor.structure.axes import positions
from sartor.structure.calls import Op, Value


@dataclass(frozen=True)
class Read:
    """One reader of a group."""

    gram: Tensor  # [inputs, inputs], covariance of what it reads, float64
    weight: Tensor  # [outputs, inputs], scaled by the batch norm behind
    columns: Tensor  # [units, k]: the inputs that carry each unit
    scale: float = 1.0  # cost of a squared error at its output; see `grams`


def reader_weight(graph: Graph, group: str, site: Site, tensors: Mapping[str, Tensor]) -> Tensor:
    """[units, columns, rest]: what one operator multiplies each column of each unit with.

    The columns are the places of `site.positions`: several where several inputs of the operator carry a unit. Where a
    batch norm in evaluation mode alone reads the result, every output is scaled by what the norm multiplies it with,
    |gamma| / sqrt(variance + eps): so the weights of different layers compare. Ones, [units, columns, 1], for a place
    that reads without a weight of its own. Where it is not known which column a weight reads (an operator whose weight
    carries the units another number of times), every column counts with all weights of its unit.

    Args:
        graph: of the model.
        group: whose units are read.
        site: where; see `Graph.sites`.
        tensors: parameters and buffers by name.
    """
    op = graph.ops[site.op]
    units, columns = site.positions.shape
    w = next((v for v in op.inputs[1:] if v.name is not None and v.ndim > 1), None) if site.slot == "in0" else None
    if w is None or w.name is None:
        return torch.ones(units, columns, 1)
    weight = tensors[w.name].detach()
    gain = _gain_behind(graph, op, tensors)
    if gain is not None and op.kind in ("conv", "linear") and gain.shape[0] == weight.shape[0]:
        weight = weight * gain.to(weight).reshape(-1, *[1] * (weight.dim() - 1))
    inputs = _by_input(op, weight)
    if inputs is not None and int(site.positions.max()) < len(inputs):
        return inputs[site.positions.to(inputs.device)]
    read = graph.read_view(group, w, weight)
    if read is None:
        return torch.ones(units, columns, 1)
    where = [positions(a, graph.leaves[group]) for a in w.axes]
    if any(torch.equal(p, site.positions) for p in where):
        return read.reshape(units, columns, -1)
    return read[:, None].expand(-1, columns, -1)


def _by_input(op: Op, weight: Tensor) -> Tensor | None:
    """[inputs, outputs * taps]: the weights by the channel that they read; None: not a layer of a known layout."""
    if op.name == "linear" and weight.dim() == 2:
        return weight.T
    if op.name not in ("conv1d", "conv2d", "conv3d"):
        return None
    groups = int(op.arg("groups", 1))
    grouped = weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)  # [groups, outputs, inputs, taps]
    return grouped.movedim(2, 1).reshape(groups * weight.shape[1], -1)


def _gain_behind(graph: Graph, op: Op, tensors: Mapping[str, Tensor]) -> Tensor | None:
    readers = [o for o in graph.ops[op.index + 1 :] if o.live and any(v is op.out for v in o.inputs)]
    if len(readers) != 1 or readers[0].kind != "batch_norm":
        return None
    norm = readers[0]
    gamma, variance = norm.arg("weight"), norm.arg("running_var")
    if not isinstance(variance, Value) or variance.name is None:
        return None
    gain = (tensors[variance.name].double() + float(norm.arg("eps", 1e-5))).rsqrt()
    if isinstance(gamma, Value) and gamma.name is not None:
        gain = gain * tensors[gamma.name].detach().double().abs()
    return gain
