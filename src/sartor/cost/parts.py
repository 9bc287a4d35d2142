"""The interface of every cost that is a sum: a function of kept units by group, with the parts that it is the sum of.

MACs, parameters, bytes and predicted latency have this interface, so allocation and training work under any of them.

Source: the interchangeable "efficiency module" of W-Gates, Li et al. 2020, arXiv:2003.03677.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from torch import Tensor

from sartor.cost.macs import Term, evaluate, term, terms
from sartor.cost.soft import SoftCost, soft_macs, soft_params
from sartor.errors import BadInput
from sartor.structure.axes import find, leaves
from sartor.structure.graph import Graph
from sartor.types import Counts


class Part(NamedTuple):
    """A summand that depends on a few groups only."""

    groups: tuple[str, ...]
    cost: Callable[..., float]  # kept units of these groups, in order -> cost


@dataclass(frozen=True)
class Cost:
    """A cost of a whole network.

    Called with kept units by group, it returns the cost; groups not named are whole. The sum of `parts` equals the cost
    up to a small remainder. `soft` takes widths as tensors of real numbers and is differentiable.
    """

    name: str
    value: Callable[[Counts], float]
    parts: tuple[Part, ...]
    soft: SoftCost
    whole: Mapping[str, int] = field(default_factory=dict)  # units of every group
    stairs: bool = False  # it may decrease where a unit is added, so every width must be looked at

    def __call__(self, counts: Counts) -> float:
        return self.value(counts)

    def of_parts(self, counts: Counts) -> float:
        """The sum of the parts."""
        full = {**self.whole, **counts}
        return sum(p.cost(*(full[g] for g in p.groups)) for p in self.parts)


def counted_cost(graph: Graph, metric: str) -> Cost:
    """A counted cost, exactly the sum of its parts.

    Args:
        graph: of the network.
        metric: "macs", "flops", "params" or "bytes".

    Raises:
        BadInput: any other metric. Peak memory is a maximum, not a sum.
    """
    if metric in ("macs", "flops"):
        scale, products = (2.0 if metric == "flops" else 1.0), terms(graph)
        hard = soft_macs(graph)
    elif metric in ("params", "bytes"):
        tied_once = {id(v): v for v in graph.tensors.values()}.values()
        kept = [v for v in tied_once if metric == "bytes" or v.origin == "parameter"]
        products = [_scaled(term(v.axes), v.dtype.itemsize if metric == "bytes" else 1) for v in kept]
        scale, hard = 1.0, soft_params(graph)
    else:
        raise BadInput(f"cost: expected macs, flops, params or bytes, which are sums; got {metric!r}")
    names = {find(leaf): n for n, leaf in graph.leaves.items()}
    by_groups: dict[tuple[str, ...], list[Term]] = {}
    for n, axes in products:
        mine = tuple(sorted({names[leaf] for a in axes for leaf in leaves(a) if leaf in names}))
        by_groups.setdefault(mine, []).append((n, axes))

    def part(groups: tuple[str, ...], rows: list[Term], *counts: int) -> float:
        return scale * evaluate(rows, graph.leaf_counts(dict(zip(groups, counts))))

    def value(counts: Counts) -> float:
        return scale * evaluate(products, graph.leaf_counts(counts))

    def soft(widths: Mapping[str, Tensor]) -> Tensor:
        if metric == "bytes":
            raise BadInput("cost 'bytes': it is not differentiable in widths; limit parameters instead")
        return scale * hard(widths)

    parts = tuple(Part(groups, partial(part, groups, rows)) for groups, rows in by_groups.items())
    return Cost(metric, value, parts, soft, {n: g.units for n, g in graph.groups.items()})


def _scaled(product: Term, factor: int) -> Term:
    return product[0] * factor, product[1]
