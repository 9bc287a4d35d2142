"""Which layers can be refitted, and where in the network the result of each is compared with the original's."""

from __future__ import annotations

from dataclasses import dataclass

from sartor.activations.patches import Reading
from sartor.activations.stepper import Stepper
from sartor.structure import Graph
from sartor.structure.calls import Op, Value

_PASSES = {"dropout", "feature_dropout", "alias", "contiguous"}
_RELU = {"relu"}


@dataclass(frozen=True)
class Refit:
    """A convolution or linear layer that can be refitted, and what follows it up to where its result is compared."""

    op: int
    weight: str
    chain: tuple[int, ...]  # from the layer to the last operator before the residual sum, to be run again
    norm: int | None  # batch norm in the chain
    other: tuple[int, int] | None  # (sum, which argument): what the result is added to
    judged: Value  # of the original, where results are compared: the sum, or the end of the chain
    relu: bool  # whether only a ReLU reads what is judged
    stage: int  # the operator after which all that the refit reads has been computed

    def seen(self, stepper: Stepper) -> list[Value]:
        """What a refit reads, to be held until its stage."""
        values = [stepper.ops[self.op].args[0], *(stepper.ops[i].outputs[0] for i in self.chain)]
        return values if self.other is None else [*values, stepper.ops[self.other[0]].args[self.other[1]]]


def refits(graph: Graph, *, compensate: bool = True) -> list[Refit]:
    """Every layer whose weight one operator alone reads, in execution order."""
    readers = _readers(graph)
    uses: dict[int, int] = {}
    for op in graph.ops:
        for v in op.inputs:
            uses[id(v)] = uses.get(id(v), 0) + 1
    layers = []
    for op in graph.ops:
        reading = Reading.of(op) if op.live else None
        if reading is not None and uses[id(reading.weight)] == 1:
            layers.append(_refit(graph, readers, op, compensate))
    return sorted(layers, key=lambda f: f.op)


def _refit(graph: Graph, readers: dict[int, list[Op]], op: Op, compensate: bool) -> Refit:
    chain, norm, end = [op.index], None, op.out
    while True:
        after = readers.get(id(end), [])
        if len(after) != 1 or after[0].mutates or after[0].args[0] is not end:
            break
        if norm is None and len(chain) == 1 and _has_running_statistics(after[0]):
            norm = after[0].index
        elif after[0].name not in _PASSES:
            break
        chain.append(after[0].index)
        end = after[0].out
    stage, other, judged = chain[-1], None, end
    after = readers.get(id(end), [])
    if compensate and len(after) == 1 and after[0].name == "add" and after[0].arg("alpha", 1) == 1:
        add = after[0]
        place = 1 if add.args[0] is end else 0
        beside = add.args[place]
        if isinstance(beside, Value) and beside is not end and beside.shape == end.shape and beside.name is None:
            other, judged = (add.index, place), add.out
            stage = max(stage, _written(graph, beside, add.index))
    after = readers.get(id(judged), [])
    relu = bool(after) and all(o.name in _RELU for o in after if o.index > stage)
    weight = op.args[1].name
    assert weight is not None
    return Refit(op.index, weight, tuple(chain), norm, other, judged, relu, stage)


def _readers(graph: Graph) -> dict[int, list[Op]]:
    readers: dict[int, list[Op]] = {}
    for op in graph.ops:
        if op.live:
            for key in dict.fromkeys(id(v) for v in op.inputs):
                readers.setdefault(key, []).append(op)
    return readers


def _has_running_statistics(op: Op) -> bool:
    """Whether this is a batch norm with running statistics."""
    return op.kind == "batch_norm" and all(
        isinstance(op.arg(n), Value) and op.arg(n).name is not None for n in ("running_mean", "running_var")
    )


def _written(graph: Graph, value: Value, before: int) -> int:
    """The last operator before `before` that wrote a value; -1: it was there from the start."""
    last = -1
    for op in graph.ops[:before]:
        if any(v is value for v in op.outputs) or (op.mutates and op.args and op.args[0] is value):
            last = op.index
    return last
