"""Weights that a forward computes from parameters: weight norm, spectral norm, weight standardisation.

A layer reads such a weight as it reads a parameter, so the parameters behind it get the roles that its dimensions have,
and what a criterion reads as the weight is the one that the layer uses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sartor.structure.axes import find, leaves
from sartor.structure.calls import Op, Value, values
from sartor.structure.example import tensors
from sartor.types import Role


def pass_roles_back(ops: Sequence[Op]) -> None:
    """Give the parameters behind a computed weight the roles of its dimensions; one number a unit is a "norm"."""
    makers = _makers(ops)
    for weight in _computed(ops, makers):
        by_leaf: dict[Any, Role | None] = {}
        for d, role in weight.roles.items():
            for leaf in leaves(weight.axes[d]):
                by_leaf[leaf] = role if by_leaf.get(leaf, role) == role else None
        for v in _behind(weight, makers)[1]:
            if v.origin != "parameter" or v.shape == ():
                continue
            for d, a in enumerate(v.axes):
                meets = {by_leaf.get(find(leaf)) for leaf in leaves(a)} - {None}
                found = weight.roles.get(d) if v.shape == weight.shape else meets.pop() if len(meets) == 1 else None
                if found is not None:
                    alone = v.ndim < 2 or all(n == 1 for i, n in enumerate(v.shape) if i != d)
                    v.roles.setdefault(d, "norm" if alone and weight.ndim > 1 else found)


def effective_weights(ops: Sequence[Op], parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Computed weights by the name of the parameter of their shape that they are computed from.

    Args:
        ops: recorded and solved.
        parameters: parameters and buffers by name.

    Returns:
        Only weights behind which exactly one parameter has their shape.
    """
    makers = _makers(ops)
    found: dict[str, Tensor] = {}
    for weight in _computed(ops, makers):
        chain, sources = _behind(weight, makers)
        alike = [v.name for v in sources if v.origin == "parameter" and v.shape == weight.shape]
        if len(alike) != 1 or any(v.name is None for v in sources):
            continue
        known = {id(v): parameters[str(v.name)] for v in sources}
        with torch.no_grad():
            for op in chain:
                out = op.func(*_given(op.args, known), **_given(op.kwargs, known))
                known.update({id(v): t for v, t in zip(values(op.out), tensors(out))})
        found[str(alike[0])] = known[id(weight)]
    return found


def _makers(ops: Sequence[Op]) -> dict[int, Op]:
    """The operators that compute with parameters, buffers and each other's results alone, by id of their results."""
    makers: dict[int, Op] = {}
    for op in ops:
        inputs = op.inputs
        if op.followed and not op.mutates and inputs and all(v.name is not None or id(v) in makers for v in inputs):
            makers.update({id(v): op for v in op.outputs if v.name is None})
    return makers


def _computed(ops: Sequence[Op], makers: Mapping[int, Op]) -> list[Value]:
    """Weights that some operator reads as such, and that others computed."""
    read = {id(v): v for op in ops if op.followed for v in op.inputs if v.name is None and v.ndim > 1 and v.roles}
    return [v for i, v in read.items() if i in makers]


def _behind(weight: Value, makers: Mapping[int, Op]) -> tuple[list[Op], list[Value]]:
    """(the operators that compute a weight, in order; the parameters and buffers that they read)."""
    chain: dict[int, Op] = {}
    sources: dict[int, Value] = {}
    todo = [weight]
    while todo:
        v = todo.pop()
        op = makers.get(id(v))
        if op is None:
            sources[id(v)] = v
        elif op.index not in chain:
            chain[op.index] = op
            todo += op.inputs
    return [chain[i] for i in sorted(chain)], list(sources.values())


def _given(x: Any, known: Mapping[int, Tensor]) -> Any:
    if isinstance(x, Value):
        return known[id(x)]
    if isinstance(x, list | tuple):
        return type(x)(_given(v, known) for v in x)
    return {k: _given(v, known) for k, v in x.items()} if isinstance(x, dict) else x


__all__ = ["effective_weights", "pass_roles_back"]
