"""The zero-masked original: every parameter slice of a removed unit is zero."""

from __future__ import annotations

import torch
from torch import nn

from sartor.structure.graph import Graph, Resolved
from sartor.structure.model_copy import clone, named_tensors
from sartor.structure.unfibre import reordered, straight
from sartor.torch_internals import own_parameters
from sartor.types import Plan
from sartor.wrappers import unwrapped


def silence(model: nn.Module, graph: Graph, plan: Plan | Resolved) -> nn.Module:
    """A copy with the same shapes in which every parameter slice of the removed units is zero.

    Raises:
        BadInput: the plan is not for this graph.
    """
    model = unwrapped(model).module
    resolved = graph.resolve(plan)
    if resolved.orders:
        renumbered, plain = straight(model, graph, resolved)
        back = {n: order.argsort(1) for n, order in resolved.orders.items()}
        return reordered(silence(renumbered, graph, plain), graph, back)
    return silence_(clone(model, lambda t: t.detach().clone()), resolved)


def silence_(model: nn.Module, resolved: Resolved) -> nn.Module:
    """`silence` in place, for a plan without fibres; returns the model."""
    graph = resolved.graph
    directions = {v.name for op in graph.ops if op.kind == "weight_norm" for v in op.args[:1]}
    done: set[int] = set()
    with torch.no_grad():
        for owner, key, name, t in named_tensors(model):
            if key not in own_parameters(owner) or name in directions:  # 0 / |0| has no value; its magnitude is zeroed
                continue
            for d, a in enumerate(graph.tensors[name].axes) if id(t) not in done else ():
                if not resolved.masks.is_whole(a):
                    t.index_fill_(d, (~resolved.masks.mask(a)).nonzero()[:, 0].to(t.device), 0)
            done.add(id(t))
    return model


__all__ = ["silence", "silence_"]
