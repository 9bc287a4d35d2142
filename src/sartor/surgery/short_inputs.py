"""Inputs with fewer pixels, steps or tokens, on which a network calls the same operators.

A forward in float64 takes up to thirty times as long as one in float32, and its time follows the size of the inputs.
Which units a network keeps shows on small inputs as well as on large ones, because weights are shared along space and
time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import nn

from sartor.activations.follow import Interventions, Numerics, follow
from sartor.borrow import uncollected
from sartor.structure.example import Example, call, map_tensors, tensors
from sartor.structure.graph import Graph
from sartor.structure.rules.shapes import META
from sartor.structure.shadow import Shadow
from sartor.structure.value_reads import repeated

_SHORT = 48  # lengths up to this stay as they are
_SHARES = (1 / 7, 2 / 7, 1 / 2)  # tried in this order
_STEP = 32  # a multiple of this stays one: networks halve their images five times


def shortened(model: nn.Module, graph: Graph, example: Example) -> Example:
    """The example without the ends of its long dimensions, as far as the model runs the same operators on meta tensors.

    All dimensions of one length are shortened together, except the batch. What is left of a dimension are its first
    elements. The example itself comes back where no dimension can be shortened, or where the forward depends on values
    that are computed from weights.

    Args:
        model: borrowed.
        graph: traced from it.
        example: real inputs of any batch size.
    """
    if any(t.device.type != "meta" for t in tensors(graph.example)):
        return example
    lengths = {n for t in tensors(example) for n in t.shape[1:] if n > _SHORT}
    shadow = Shadow(model)
    with uncollected():
        for length in sorted(lengths, reverse=True):
            for short in _shorter(length):
                tried = _cut_off(example, length, short)
                if _same_operators(shadow, graph, tried):
                    example = tried
                    break
    return example


def _shorter(length: int) -> Iterator[int]:
    step = _STEP if length % _STEP == 0 else 1
    for share in _SHARES:
        short = max(_STEP, step * math.ceil(length * share / step))
        if 3 * short <= 2 * length:
            yield short


def _cut_off(example: Example, length: int, short: int) -> Example:
    return map_tensors(
        lambda t: t[tuple(slice(short if d and n == length else n) for d, n in enumerate(t.shape))], example
    )


def _same_operators(shadow: Shadow, graph: Graph, example: Example) -> bool:
    """Whether the forward on meta tensors calls the recorded operators and no others."""
    changes = Interventions(instead=lambda op, *_: repeated(op, op.func))
    on_meta = map_tensors(lambda t: t.detach().to(META), example)
    try:
        with shadow.lent() as copy, follow(
            graph.ops, copy, lambda *_: None, changes=changes, numerics=Numerics(meta=True)
        ) as walk:  # fmt: skip
            call(copy, on_meta)
    except Exception:  # whatever the user's forward raises on inputs it was not made for
        return False
    return walk.place == len(graph.ops)


__all__ = ["shortened"]
