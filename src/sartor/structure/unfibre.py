"""A plan with fibres as a plan without fibres, on the same network with renumbered units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from sartor.structure.fibres import reorder
from sartor.structure.graph import Graph, Resolved
from sartor.structure.model_copy import clone, named_tensors
from sartor.types import Plan


def straight(model: nn.Module, graph: Graph, plan: Plan | Resolved) -> tuple[nn.Module, Resolved]:
    """A network that computes the same, and the plan without fibres that cuts it as `plan` cuts `model`.

    Without fibres the model comes back as it is.

    Raises:
        BadInput: the plan does not fit the graph.
    """
    resolved = graph.resolve(plan)
    if not resolved.orders:
        return model, resolved
    plain = replace(resolved, plan=replace(resolved.plan, fibres={}), orders={})
    return reordered(model, graph, resolved.orders), plain


def reordered(model: nn.Module, graph: Graph, orders: Mapping[str, Tensor]) -> nn.Module:
    """A copy in which the units of some groups are reordered, separately for each unit of their outer leaf.

    Args:
        orders: fibred group -> [units of the outer leaf, units]: the unit that comes to each place.
    """
    values = {id(t): graph.tensors[name] for *_, name, t in named_tensors(model)}

    def turned(t: Tensor) -> Tensor:
        new = t.detach().clone()
        for name, order in orders.items():
            new = reorder(new, values[id(t)], graph.leaves[name], graph.fibres[name], order)
        return new

    return clone(model, turned)


__all__ = ["reordered", "straight"]
