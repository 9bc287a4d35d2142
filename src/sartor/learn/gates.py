"""One gate a unit, on any traced network: the forward with every unit multiplied by its gate.

A gate multiplies its unit. No module is added and no module is changed: parameters are scaled along the dimensions in
which they hold the unit, and the model is called with the scaled ones. Where a gate acts is a choice, made by group:

- *at the readers*, wherever everything that sums over the units does so through weights: the columns with which
  convolutions and linear maps read a unit are scaled. That is the unit's activation times its gate, behind its norm
  and its nonlinearity, and the writers go on as they were. A gate on a residual stream acts where the stream is read.
- *everywhere*, if something else sums over the units too (queries and keys, a mean over units): all parameter slices
  of a unit are scaled, weights, biases and norms alike, as `sartor.surgery.silence` zeroes them. Between 0 and 1 the
  gate then acts several times over, as a power of itself.

At 1 a unit is whole, at 0 it is gone: with gates of 0 and 1 the output is that of the cut network, except where an
operator takes a statistic over the units (a layer norm): there the statistic still sees those that are gone.

Source: AutoBot (Castells and Yeom 2023, arXiv:2111.09635, section 3) multiplies activations by lambda behind the ReLU;
at the readers that is the same product, taken by the weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput
from sartor.structure import Graph
from sartor.structure.axes import Axis, find, leaves
from sartor.structure.example import Example, as_args, to_device
from sartor.structure.factors import factors_of

_DROPS = ("slice", "select", "split")  # operators that leave units out without summing over them
Place = tuple[str, int]  # tensor, dimension


@final
class Gated:
    """A network whose units are multiplied by gates that are given with each call.

    The model is borrowed for each call, in evaluation mode; its parameters and buffers stay as they are and gradients
    go to the gates alone.

    Args:
        graph: of the model.
        model: floating-point parameters, as they are now; a later change of them is not seen.
        groups: names of those with gates; None: all.

    Raises:
        UnknownName: no such group.
    """

    def __init__(self, graph: Graph, model: nn.Module, groups: Sequence[str] | None = None):
        self.model = model
        self.units = {n: graph.group(n).units for n in (graph.groups if groups is None else groups)}
        self.places = gate_places(graph, list(self.units))
        self.device = device_of(model)
        self._leaf = {n: find(graph.leaves[n]) for n in self.units}
        self._axes = {
            place: graph.tensors[place[0]].axes[place[1]] for places in self.places.values() for place in places
        }
        self._weights = {n: p.detach() for n, p in model.named_parameters()}

    def __call__(self, inputs: Example, gates: Mapping[str, Tensor]) -> Any:
        """What the model returns when its units are multiplied by these gates.

        Args:
            inputs: as the model takes them.
            gates: group -> [units], usually in [0, 1]; a group not named is whole.

        Raises:
            BadInput: gates of a group that has none here, or of another length.
        """
        args, kwargs = as_args(to_device(inputs, self.device))
        with borrowed(self.model):
            buffers = {n: b.detach().clone() for n, b in self.model.named_buffers()}
            return torch.func.functional_call(
                self.model, {**self._weights, **self.scaled(gates), **buffers}, args, kwargs
            )

    def scaled(self, gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The parameters that gates change, by name."""
        for name, gate in gates.items():
            if name not in self.units:
                raise BadInput(f"gates: expected groups with gates ({', '.join(self.units)}); got {name!r}")
            if gate.shape != (self.units[name],):
                raise BadInput(
                    f"gates of group {name!r}: expected shape ({self.units[name]},), one a unit; "
                    f"got {tuple(gate.shape)}"
                )
        by_place: dict[Place, dict[Axis, Tensor]] = {}
        for name, gate in gates.items():
            for place in self.places[name]:
                by_place.setdefault(place, {})[self._leaf[name]] = gate.to(self.device)
        out: dict[str, Tensor] = {}
        for (tensor, dim), by_leaf in by_place.items():
            whole = out.get(tensor, self._weights[tensor])
            along = _along(self._axes[tensor, dim], by_leaf, self.device).to(whole.dtype)
            out[tensor] = whole * along.view([-1 if d == dim else 1 for d in range(whole.dim())])
        return out


def gate_places(graph: Graph, groups: Sequence[str] | None = None) -> dict[str, tuple[Place, ...]]:
    """The parameters and dimensions along which the gates of each group act; see the module's text for the choice."""
    names = {find(graph.leaves[graph.group(n).name]): n for n in (graph.groups if groups is None else groups)}
    reads: dict[str, dict[Place, None]] = {
        n: {(m.tensor, m.dim): None for m in graph.groups[n].members if m.role == "in"} for n in names.values()
    }
    unweighted: set[str] = set()  # summed over by something else than weights
    for op in graph.ops:
        if not op.live or op.kind in _DROPS:
            continue
        along = [(leaf, v.name, d) for v in op.inputs for d, a in enumerate(v.axes) for leaf in map(find, leaves(a))]
        given = {find(leaf) for v in op.outputs for a in v.axes for leaf in leaves(a)}
        for leaf in {leaf for leaf, *_ in along if leaf in names} - given:
            weights = [(t, d) for a, t, d in along if a is leaf and t is not None and _is_weight(graph, t)]
            reads[names[leaf]].update(dict.fromkeys(weights))
            if not weights:
                unweighted.add(names[leaf])
        factors = factors_of(op) if op.kind == "matmul" else None  # one leaf may be summed over and given as well
        if factors is not None and factors.a.name is None and factors.b.name is None:
            unweighted |= {names[leaf] for a in factors.summed for leaf in map(find, leaves(a)) if leaf in names}
    directions = {v.name for op in graph.ops if op.kind == "weight_norm" for v in op.args[:1]}  # 0 / |0| has no value

    def everywhere(name: str) -> tuple[Place, ...]:
        members = [m for m in graph.groups[name].members if m.tensor not in directions and _is_weight(graph, m.tensor)]
        return tuple((m.tensor, m.dim) for m in members)

    return {n: tuple(where) if where and n not in unweighted else everywhere(n) for n, where in reads.items()}


def _is_weight(graph: Graph, tensor: str) -> bool:
    value = graph.tensors[tensor]
    return value.origin == "parameter" and value.dtype.is_floating_point


def _along(a: Axis, gates: Mapping[Axis, Tensor], device: torch.device) -> Tensor:
    """The factor of every position of an axis, [size], from the gates of its leaves; mirrors `keep_mask`."""
    a = find(a)
    if a.frozen or a.kind is None:
        gate = None if a.frozen else gates.get(a)
        return torch.ones(a.size, device=device) if gate is None else gate
    parts = [_along(k, gates, device) for k in a.kids]
    if a.kind == "s":
        return torch.cat(parts)
    out = parts[0]
    for p in parts[1:]:
        out = (out[:, None] * p[None, :]).reshape(-1)
    return out
