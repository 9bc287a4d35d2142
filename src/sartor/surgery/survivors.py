"""The reference for norms that mix units: their statistics are taken over the remaining units only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.follow import Interventions, Match, follow
from sartor.structure.axes import Axis, find, keep_mask, new_size
from sartor.structure.calls import Op
from sartor.structure.example import Example, call
from sartor.structure.graph import Graph

_NORMS = {"layer_norm", "rms_norm", "group_norm"}


def reproducible(graph: Graph, name: str) -> bool:
    """Whether only layer, rms and group norms mix the units of a group, so that a reference exists."""
    return all(r.kind == "statistics" and r.op in _NORMS for r in find(graph.leaves[name]).mix)


def reference_output(silenced: nn.Module, graph: Graph, masks: Mapping[Axis, Tensor], example: Example) -> Any:
    """Forward of the zero-masked model in which layer, rms and group norms use only the remaining units.

    The removed units stay zero behind such a norm. Where the forward on real tensors leaves the recorded path, norms
    behind that place are computed over all units.
    """
    changes = Interventions(instead=lambda op, args, kwargs: _norm_of_survivors(op, masks, args, kwargs))
    match = Match(may_leave=lambda place: True)
    with follow(graph.ops, silenced, lambda *_: None, changes=changes, match=match):
        return call(silenced, example)


def _norm_of_survivors(op: Op, masks: Mapping[Axis, Tensor], args: Any, kwargs: Any) -> Any:
    """The result of a norm over the units that survive; NotImplemented: this operator computes what it always does."""
    if op.name not in _NORMS or not op.live:
        return NotImplemented
    x: Tensor = args[0]
    first = 1 if op.name == "group_norm" else x.dim() - len(args[1])
    last = 2 if op.name == "group_norm" else x.dim()
    alive = {d: keep_mask(op.args[0].axes[d], masks).nonzero()[:, 0].to(x.device) for d in range(first, last)}
    if all(len(i) == x.shape[d] for d, i in alive.items()):
        return NotImplemented
    small = x
    for d, i in alive.items():
        small = small.index_select(d, i)
    rest = list(args[1:])
    for n, value in enumerate(rest):
        if isinstance(value, Tensor):
            for d in range(value.dim()):
                value = value.index_select(d, alive[first + d])
            rest[n] = value
    if op.name == "group_norm":
        groups = op.sizes["num_groups"]
        assert isinstance(groups, Axis)
        rest[0] = new_size(groups, {a: int(m.sum()) for a, m in masks.items()})
    else:
        rest[0] = list(small.shape[first:])
    where: list[Any] = [torch.arange(n, device=x.device) for n in x.shape]
    where = [alive.get(d, i) for d, i in enumerate(where)]
    out = torch.zeros_like(x)
    out[torch.meshgrid(*where, indexing="ij")] = op.func(small, *rest, **kwargs)
    return out
