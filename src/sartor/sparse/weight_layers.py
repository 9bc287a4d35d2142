"""The weight matrices of a network: which operators multiply by them, in the order of the forward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sartor.cost.macs import evaluate, term
from sartor.errors import BadInput
from sartor.structure import Graph
from sartor.structure.calls import Op, Value
from sartor.structure.rules import lookup
from sartor.types.weights import Weights


@dataclass(frozen=True)
class WeightLayer:
    """One weight matrix and what it costs."""

    name: str  # of the parameter
    shape: tuple[int, ...]
    out_dim: int  # the dimension of outputs
    in_dim: int | None  # the dimension that is summed over; None: of size one or fixed, as in a depthwise convolution
    macs: int  # of all operators that read it, in one forward of the example

    @property
    def size(self) -> int:
        """Weights of the dense matrix."""
        return math.prod(self.shape)

    @property
    def order(self) -> tuple[int, ...]:
        """The dimensions in the order of `view`."""
        first = (self.out_dim,) if self.in_dim is None else (self.out_dim, self.in_dim)
        return (*first, *(d for d in range(len(self.shape)) if d not in first))

    @property
    def viewed_shape(self) -> tuple[int, ...]:
        """The shape of `view`."""
        return tuple(self.shape[d] for d in self.order)

    def view(self, tensor: Tensor) -> Tensor:
        """The weight, its gradient or its mask as [out, in, *kernel], without a copy; depthwise: [out, 1, *kernel]."""
        return tensor.permute(self.order)

    def unview(self, viewed: Tensor) -> Tensor:
        """The inverse of `view`."""
        inverse = [self.order.index(d) for d in range(len(self.shape))]
        return viewed.permute(inverse)


def weight_layers(graph: Graph) -> list[WeightLayer]:
    """All matrices that convolutions and linear maps read as parameters, in the order of the forward.

    A parameter that several operators read is one layer with the sum of their costs. A weight that is computed from
    other parameters (weight norm) is not a parameter, so it is not among them.
    """
    order: dict[str, Value] = {}
    cost: dict[str, float] = {}
    for op in graph.ops:
        matrices = [v for v in op.inputs if v.name is not None and _is_matrix(v)] if op.kind else []
        total = sum(v.numel({}) for v in matrices)
        spent = _macs(op) if matrices else 0
        if not spent:
            continue
        for v in matrices:
            name = str(v.name)
            order.setdefault(name, v)
            cost[name] = cost.get(name, 0.0) + spent * v.numel({}) / total
    return [_layer(name, v, round(cost[name])) for name, v in order.items()]


def participants(layers: Sequence[WeightLayer], cut: Weights) -> list[WeightLayer]:
    """The layers that a recipe lets take part, before the pattern is asked whether it fits.

    Raises:
        BadInput: `only` or `exclude` names nothing, or no layer is left.
    """
    for field, names in (("only", cut.only), ("exclude", cut.exclude)):
        for wanted in names:
            if not any(_inside(x.name, wanted) for x in layers):
                known = ", ".join(x.name for x in layers[:6])
                raise BadInput(
                    f"recipe field 'cut.{field}': {wanted!r} names no weight matrix; expected modules or parameters, "
                    f"such as {known or 'none: this forward multiplies by no parameter'}"
                )
    chosen = list(layers)[0 if cut.first else 1 : None if cut.last else -1]
    chosen = [x for x in chosen if not cut.only or any(_inside(x.name, n) for n in cut.only)]
    chosen = [x for x in chosen if not any(_inside(x.name, n) for n in cut.exclude)]
    if not chosen:
        raise BadInput(
            f"recipe field 'cut': of {len(layers)} weight matrices none takes part; name other modules in 'only' or "
            "'exclude', or let the first and the last layer take part"
        )
    return chosen


def _inside(name: str, wanted: str) -> bool:
    return name == wanted or name.startswith(f"{wanted}.")


def _is_matrix(v: Value) -> bool:
    return v.origin == "parameter" and v.ndim > 1 and "out" in v.roles.values()


def _macs(op: Op) -> int:
    rule = lookup(op.func)
    return evaluate([term(axes) for axes in rule.macs(op)], {}) if rule is not None and rule.macs is not None else 0


def _layer(name: str, v: Value, macs: int) -> WeightLayer:
    by_role = {role: d for d, role in reversed(v.roles.items())}
    return WeightLayer(name, v.shape, by_role["out"], by_role.get("in"), macs)


__all__ = ["WeightLayer", "participants", "weight_layers"]
