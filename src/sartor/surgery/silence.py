"""The zero-masked original: every parameter slice of a removed unit is zero."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

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
    with torch.no_grad():
        for _, t, slices in dead_slices(model, resolved):
            for d, index in slices.items():
                t.index_fill_(d, index, 0)
    return model


def dead_slices(model: nn.Module, resolved: Resolved) -> Iterator[tuple[str, Tensor, dict[int, Tensor]]]:
    """(name, parameter, dimension -> indices of removed units on its device) of every parameter that holds some.

    These are zero in the zero-masked original. A tied parameter comes once. Directions of a weight norm are left out:
    0 / |0| has no value, and their magnitudes are zero.
    """
    graph = resolved.graph
    directions = {v.name for op in graph.ops if op.kind == "weight_norm" for v in op.args[:1]}
    done: set[int] = set()
    for owner, key, name, t in named_tensors(model):
        if key not in own_parameters(owner) or name in directions or id(t) in done:
            continue
        done.add(id(t))
        axes = [(d, a) for d, a in enumerate(graph.tensors[name].axes) if not resolved.masks.is_whole(a)]
        if axes:
            yield name, t, {d: (~resolved.masks.mask(a)).nonzero()[:, 0].to(t.device) for d, a in axes}


__all__ = ["dead_slices", "silence", "silence_"]
