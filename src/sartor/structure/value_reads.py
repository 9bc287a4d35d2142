"""What a forward on meta tensors asks of values, answered: `.item()` and its like, without a weight being read.

Models look at positions and masks before they decide on a path ("is anything masked at all?"). Such questions hang on
the inputs and on tensors made on the spot, not on weights, so the few operators behind them are computed for real.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from sartor.errors import CannotTrace
from sartor.structure.calls import Op, Value, short_name, values
from sartor.structure.example import map_tensors, tensors
from sartor.structure.recording import Recording

QUESTIONS = {"item", "_local_scalar_dense", "is_nonzero", "equal"}  # operators that give Python a value
_LARGEST = 1_000_000  # elements of a tensor that is computed to answer


class Answers:
    """Computes answers from what was recorded so far and the real inputs.

    Args:
        recording: of the forward on meta that asks.
        given: the inputs' tensors, in order; those on meta have no values.
    """

    def __init__(self, recording: Recording, given: Sequence[Tensor]):
        self.recording = recording
        self._given = {id(v): t for v, t in zip(recording.inputs, given) if t.device.type != "meta"}
        self._read = 0  # operators entered in the two tables
        self._makers: dict[int, Op] = {}  # by id of a Value
        self._writers: dict[int, list[Op]] = {}  # by storage

    def __call__(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """The answer of an operator that asks; NotImplemented for every other one.

        Raises:
            CannotTrace: it hangs on weights, or on much data.
        """
        if short_name(func) not in QUESTIONS:
            return NotImplemented
        for op in self.recording.ops[self._read :]:
            if op.mutates:
                for v in op.inputs[:1]:
                    self._writers.setdefault(v.storage, []).append(op)
            self._makers.update({id(v): op for v in op.outputs if all(v is not x for x in op.inputs)})
        self._read = len(self.recording.ops)
        asked = [self.recording.value(t) for t in tensors((args, kwargs))]
        known = {k: t.clone() for k, t in self._given.items()}
        for op in self._behind(asked):
            out = op.func(*_real(op.args, known), **_real(op.kwargs, known))
            known.update({id(v): t for v, t in zip(values(op.out), tensors(out), strict=True)})
        real = iter([known[id(v)] for v in asked])
        return func(*map_tensors(lambda _: next(real), args), **map_tensors(lambda _: next(real), kwargs))

    def _behind(self, asked: Sequence[Value]) -> list[Op]:
        """The operators these values hang on, those that write to their memory included, in order."""
        found: dict[int, Op] = {}
        todo, seen = list(asked), set(self._given)
        while todo:
            v = todo.pop()
            if id(v) in seen:
                continue
            seen.add(id(v))
            if id(v) not in self._makers or math.prod(v.shape) > _LARGEST:
                raise CannotTrace("its control flow looks at values that hang on weights")
            for op in (self._makers[id(v)], *self._writers.get(v.storage, ())):
                if op.index not in found:
                    found[op.index] = op
                    todo += [*op.inputs, *op.outputs]
        return [found[i] for i in sorted(found)]


def repeated(op: Op, func: OpOverload) -> Any:
    """The answer that was given at this place when the graph was made; NotImplemented for what asks nothing."""
    return op.out if short_name(func) in QUESTIONS and op.func is func else NotImplemented


def _real(x: Any, known: dict[int, Tensor]) -> Any:
    if isinstance(x, Value):
        return known[id(x)]
    if isinstance(x, torch.device):
        return torch.device("cpu")
    if isinstance(x, list | tuple):
        return type(x)(_real(v, known) for v in x)
    return {k: _real(v, known) for k, v in x.items()} if isinstance(x, dict) else x
