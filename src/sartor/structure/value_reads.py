"""Results of operators that give Python a value (`.item()` and the like) while a forward runs on meta tensors.

Some models read values before they choose a branch ("is any position masked?"). Such values usually depend on the
inputs and on newly made tensors, not on weights. The few operators they depend on are computed with real tensors; no
weight is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sartor.errors import CannotTrace
from sartor.structure.calls import Op, Value, short_name, values
from sartor.structure.example import map_tensors, tensors
from sartor.structure.recording import Recording
from sartor.torch_internals import OpOverload

QUESTIONS = {"item", "_local_scalar_dense", "is_nonzero", "equal"}  # operators that give Python a value
_LARGEST = 1_000_000  # elements of a tensor that is computed for a value


class Answers:
    """Computes the values that a forward reads, from the calls recorded so far and the real inputs.

    Args:
        recording: of the forward on meta tensors that reads the values.
        given: the input tensors in order; those on meta have no values.
    """

    def __init__(self, recording: Recording, given: Sequence[Tensor]):
        self.recording = recording
        self._given = {id(v): t for v, t in zip(recording.inputs, given) if t.device.type != "meta"}
        self._read = 0  # operators that are in the two tables below
        self._makers: dict[int, Op] = {}  # by id of a Value
        self._writers: dict[int, list[Op]] = {}  # by storage

    def __call__(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """The value that an operator gives Python; NotImplemented for every other operator.

        Raises:
            CannotTrace: the value depends on weights, or on a tensor of more than a million elements.
        """
        if short_name(func) not in QUESTIONS:
            return NotImplemented
        for op in self.recording.ops[self._read :]:
            if op.mutates:
                for v in op.inputs[:1]:
                    self._writers.setdefault(v.storage, []).append(op)
            self._makers.update({id(v): op for v in op.outputs if all(v is not x for x in op.inputs)})
        self._read = len(self.recording.ops)
        read = [self.recording.value(t) for t in tensors((args, kwargs))]
        known = {k: t.clone() for k, t in self._given.items()}
        for op in self._behind(read):
            out = op.func(*_real(op.args, known), **_real(op.kwargs, known))
            known.update({id(v): t for v, t in zip(values(op.out), tensors(out), strict=True)})
        real = iter([known[id(v)] for v in read])
        return func(*map_tensors(lambda _: next(real), args), **map_tensors(lambda _: next(real), kwargs))

    def _behind(self, read: Sequence[Value]) -> list[Op]:
        """The operators these values depend on, in order, with those that write to their memory."""
        found: dict[int, Op] = {}
        todo, seen = list(read), set(self._given)
        while todo:
            v = todo.pop()
            if id(v) in seen:
                continue
            seen.add(id(v))
            if id(v) not in self._makers or math.prod(v.shape) > _LARGEST:
                raise CannotTrace("its control flow depends on values that are computed from weights")
            for op in (self._makers[id(v)], *self._writers.get(v.storage, ())):
                if op.index not in found:
                    found[op.index] = op
                    todo += [*op.inputs, *op.outputs]
        return [found[i] for i in sorted(found)]


def decisions(recording: Recording) -> list[int]:
    """Which of the values that Python read were true or false: their numbers among all values that it read."""
    given = [op.out for op in recording.ops if op.name in QUESTIONS]
    return [n for n, value in enumerate(given) if type(value) is bool]


class Opposite:
    """Answers what `usual` answers, except for one value that is true or false: it gets the opposite.

    Args:
        place: number of the value among all that the forward reads.
        usual: gives the results of operators that read values, or NotImplemented; None: they run as they are.
    """

    def __init__(self, place: int, usual: Callable[..., Any] | None):
        self._place, self._usual, self._read = place, usual, 0

    def __call__(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """The value that an operator gives Python; NotImplemented for every other operator."""
        if short_name(func) not in QUESTIONS:
            return NotImplemented
        value = NotImplemented if self._usual is None else self._usual(func, args, kwargs)
        if value is NotImplemented:
            value = func(*args, **kwargs)
        self._read += 1
        return not value if self._read == self._place + 1 and type(value) is bool else value


def repeated(op: Op, func: OpOverload) -> Any:
    """The value that this operator gave when the graph was recorded; NotImplemented for one that gives no value."""
    return op.out if short_name(func) in QUESTIONS and op.func is func else NotImplemented


def _real(x: Any, known: dict[int, Tensor]) -> Any:
    if isinstance(x, Value):
        return known[id(x)]
    if isinstance(x, torch.device):
        return torch.device("cpu")
    if isinstance(x, list | tuple):
        return type(x)(_real(v, known) for v in x)
    return {k: _real(v, known) for k, v in x.items()} if isinstance(x, dict) else x
