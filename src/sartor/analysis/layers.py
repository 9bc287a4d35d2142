"""The layers whose activations are looked at: the results of nonlinear functions, by a name that a cut keeps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sartor.activations.sites import sample_dim
from sartor.structure import Graph, Site
from sartor.structure.axes import find, leaves
from sartor.structure.calls import Op, Value

RECTIFIERS = {"relu", "relu6", "threshold", "hardtanh"}  # exactly zero where they are not active
SMOOTH = {
    "gelu", "silu", "mish", "hardswish", "hardsigmoid", "sigmoid", "tanh", "elu", "celu", "selu", "leaky_relu",
    "softplus", "prelu", "_prelu_kernel",
}  # fmt: skip


@dataclass(frozen=True)
class Layer:
    """The result of one operator."""

    name: str  # module path, and the operator where the path alone does not tell
    op: int
    unit_dim: int  # dimension of the units, from the front, at the traced rank
    rectifies: bool

    def rows(self, graph: Graph, value: Tensor, n: int) -> Tensor | None:
        """[samples, units, positions]; None: the samples of this batch cannot be told apart.

        Args:
            graph: of the network.
            value: the result of the operator.
            n: samples of the batch.
        """
        traced = graph.ops[self.op].outputs[0]
        if value.dim() != traced.ndim or value.dim() < 2:
            return None
        site = Site(self.op, "out", self.unit_dim, torch.empty(0))
        samples = 0 if n == 1 and value.shape[0] == 1 else sample_dim(graph, site, value, n)
        if samples is None or samples == self.unit_dim:
            return None
        return value.movedim((samples, self.unit_dim), (0, 1)).flatten(2) if value.dim() > 2 else value[..., None]


def layers(graph: Graph) -> list[Layer]:
    """Every nonlinear function of a network; of a network without any, every convolution and linear layer."""
    ops = [op for op in graph.ops if op.live and op.name in RECTIFIERS | SMOOTH]
    if not ops:
        ops = [op for op in graph.ops if op.live and op.kind in ("conv", "linear")]
    ops = [op for op in ops if op.outputs and op.outputs[0].ndim >= 2]
    times = Counter(op.path for op in ops)
    seen: Counter[str] = Counter()
    found = []
    for op in ops:
        seen[op.path] += 1
        name = op.path if op.path and times[op.path] == 1 else f"{op.path}:{op.name}".lstrip(":")
        if not op.path and name in times:  # a module has that name
            name = f"forward:{name}"
        name = name if times[op.path] == 1 else f"{name}#{seen[op.path]}"
        found.append(Layer(name, op.index, _unit_dim(graph, op.outputs[0]), op.name in RECTIFIERS))
    return found


def classifier(graph: Graph) -> Op | None:
    """The linear layer that gives the network's first output; None: another operator does."""
    out = graph.outputs[0] if graph.outputs else None
    for op in reversed(graph.ops):
        if op.live and op.kind == "linear" and any(v is out for v in op.outputs):
            return op if isinstance(op.args[1], Value) and op.args[1].name is not None else None
    return None


def weighted_layers(graph: Graph) -> Iterator[tuple[Op, str]]:
    """(operator, name of its weight) of every convolution and linear layer; each weight once."""
    known = set()
    for op in graph.ops:
        if op.live and op.kind in ("conv", "linear") and len(op.args) > 1 and isinstance(op.args[1], Value):
            name = op.args[1].name
            if name is not None and name not in known:
                known.add(name)
                yield op, name


def _unit_dim(graph: Graph, value: Value) -> int:
    """The dimension that carries units of a group; where none or several do, channels or features."""
    of_groups = {find(a) for a in graph.leaves.values()}
    dims = [d for d in range(1, value.ndim) if of_groups & {find(a) for a in leaves(value.axes[d])}]
    if len(dims) == 1:
        return dims[0]
    return 1 if value.ndim == 2 or value.ndim >= 4 else value.ndim - 1
