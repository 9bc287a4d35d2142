"""Where a forward multiplies queries by keys: the linear layers that give them, and which outputs are whose head."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sartor.activations.patches import Reading
from sartor.activations.stepper import Stepper
from sartor.structure.calls import Op, Value, values
from sartor.structure.example import tensors
from sartor.structure.graph import Graph

_LAYOUT = {
    "view", "reshape", "_unsafe_view", "permute", "transpose", "unbind", "select", "split", "chunk", "split_with_sizes",
    "contiguous", "clone", "unsqueeze", "squeeze", "expand", "repeat_interleave", "slice", "alias", "flatten",
    "unflatten", "movedim", "dropout", "t",
}  # fmt: skip
_SCALED = {"mul", "div"}
_TO_SOFTMAX = {"add", "masked_fill", "where", "dropout", "_to_copy", "to", "contiguous", "clone", "view", *_SCALED}
_FARTHEST = 6  # operators between a product and its softmax


@dataclass(frozen=True)
class Projection:
    """A linear layer whose outputs are the queries or the keys of heads, apart from their layout."""

    op: int  # the linear layer
    chain: tuple[int, ...]  # operators behind it up to the product, in execution order
    features: Tensor  # int64 [heads, width]: which output of the layer each number of a head is
    scale: float  # that the chain multiplies by

    def held(self, stepper: Stepper) -> list[Value]:
        """What has to be kept so that the layer and its chain can be run again."""
        ops = stepper.ops
        return [ops[self.op].args[0], *itertools.chain.from_iterable(ops[i].outputs for i in (self.op, *self.chain))]


@dataclass(frozen=True)
class Logits:
    """A product of queries and keys."""

    op: int
    query: Projection
    key: Projection
    heads: tuple[tuple[tuple[int, ...], int], ...]  # (heads of queries, head of keys that they share)
    transposed: bool  # whether the keys come as [..., width, positions]

    @property
    def stage(self) -> int:
        """The operator after which queries and keys have been computed."""
        return max(self.query.op, self.key.op, *self.query.chain, *self.key.chain)

    def seen(self, stepper: Stepper) -> list[Value]:
        """What a refit reads, to be held until its stage."""
        return [*self.query.held(stepper), *self.key.held(stepper)]

    def values(self, stepper: Stepper, batch: int) -> tuple[Tensor, Tensor]:
        """Queries and keys, each [samples, heads, positions, width]."""
        query, key = (stepper.get(v, batch) for v in stepper.ops[self.op].args[:2])
        return query, key.transpose(-2, -1) if self.transposed else key

    def scale(self, ops: Sequence[Op]) -> float:
        """What the product is multiplied by before the softmax, beside scales of the chains.

        Args:
            ops: of the original or of the cut network: the scale of an attention operator follows its width unless it
                is given.
        """
        op = ops[self.op]
        if op.name != "scaled_dot_product_attention":
            return _scale_to_softmax(ops, op) or 1.0
        given = op.arg("scale")
        return 1 / math.sqrt(op.args[0].shape[-1]) if given is None else float(given)


def attention_logits(graph: Graph) -> list[Logits]:
    """Every product of queries and keys, each given by a linear layer through operators that only change the layout.

    Queries and keys that are turned by their position or normalised by head are not among them: their numbers cannot
    be mixed freely.
    """
    producer = {id(v): op for op in graph.ops for v in op.outputs}
    found = []
    for op in graph.ops:
        if not op.live or not _is_logits(graph.ops, op):
            continue
        transposed = op.name != "scaled_dot_product_attention"
        query = _projection(producer, op.args[0], transposed=False)
        key = _projection(producer, op.args[1], transposed=transposed)
        if query is None or key is None or query.features.shape[1] != key.features.shape[1]:
            continue
        heads = _shared(query.features, key.features)
        if heads is not None:
            found.append(Logits(op.index, query, key, heads, transposed))
    return found


def _is_logits(ops: Sequence[Op], op: Op) -> bool:
    if op.name == "scaled_dot_product_attention":
        return all(isinstance(v, Value) for v in op.args[:2])
    return op.name in ("matmul", "bmm") and _scale_to_softmax(ops, op) is not None


def _scale_to_softmax(ops: Sequence[Op], op: Op) -> float | None:
    """The product of the numbers that a result is multiplied by until its softmax; None: it does not come to one."""
    value, scale = op.out, 1.0
    for _ in range(_FARTHEST):
        readers = [o for o in ops if o.live and any(v is value for v in o.inputs)]
        if len(readers) != 1:
            return None
        reader = readers[0]
        if reader.name in ("softmax", "_softmax", "_safe_softmax"):
            return scale
        if reader.name not in _TO_SOFTMAX or not isinstance(reader.out, Value):
            return None
        if reader.name in _SCALED:
            factor = _factor(reader)
            if factor is None:
                return None
            scale *= factor
        value = reader.out
    return None


def _factor(op: Op) -> float | None:
    """The number that a product or quotient multiplies by; None: a tensor."""
    by = op.args[1] if len(op.args) > 1 else None
    if isinstance(by, bool) or not isinstance(by, int | float):
        return None
    return float(by) if op.name == "mul" else 1 / float(by)


def _projection(producer: dict[int, Op], value: Any, *, transposed: bool) -> Projection | None:
    chain: list[Op] = []
    end, scale = value, 1.0
    while True:
        op = producer.get(id(end)) if isinstance(end, Value) else None
        if op is None or op.mutates:
            return None
        if (reading := Reading.of(op)) is not None:
            break
        activations = [v for v in values((op.args, op.kwargs)) if v.name is None]
        if op.name in _SCALED:
            factor = _factor(op)
            if factor is None:
                return None
            scale *= factor
        elif op.name not in _LAYOUT:
            return None
        if len(activations) != 1 or activations[0] is not op.args[0]:
            return None
        chain.append(op)
        end = op.args[0]
    if reading.convolution:
        return None
    features = _features(op, chain[::-1], value, transposed=transposed)
    return None if features is None else Projection(op.index, tuple(o.index for o in chain[::-1]), features, scale)


def _features(linear: Op, chain: Sequence[Op], value: Value, *, transposed: bool) -> Tensor | None:
    """The numbers of the layer's outputs, taken through the operators that change the layout: [heads, width]."""
    index = torch.arange(linear.out.shape[-1]).expand(linear.out.shape)
    env: dict[int, Tensor] = {id(linear.out): index}
    for op in chain:
        if op.name in _SCALED or op.name == "dropout":
            env[id(op.out)] = env[id(op.args[0])]
            continue
        out = op.func(env[id(op.args[0])], *op.args[1:], **op.kwargs)
        env.update((id(v), t) for v, t in zip(values(op.out), tensors(out)))
    taken = env[id(value)]
    if transposed:
        taken = taken.transpose(-2, -1)
    if taken.dim() < 3 or not bool((taken == taken[..., :1, :]).all()):
        return None  # positions are mixed with features
    return taken[..., 0, :].flatten(0, -2)


def _shared(query: Tensor, key: Tensor) -> tuple[tuple[tuple[int, ...], int], ...] | None:
    """Which heads of queries meet the same outputs of the key layer; None: the heads do not fit together."""
    if len(query) % len(key):
        return None
    each = len(query) // len(key)
    groups: dict[tuple[int, ...], tuple[list[int], int]] = {}
    for head in range(len(query)):
        groups.setdefault(tuple(key[head // each].tolist()), ([], head // each))[0].append(head)
    return tuple((tuple(heads), which) for heads, which in groups.values())


__all__ = ["Logits", "Projection", "attention_logits"]
