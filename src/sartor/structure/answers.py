"""What a forward on meta tensors asks of values, answered: `.item()` and its like, without a weight being read.

Models look at positions and masks before they decide on a path ("is anything masked at all?"). Such questions hang on
the inputs and on tensors made on the spot, not on weights, so the few operators behind them are computed for real.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from sartor.errors import CannotTrace
from sartor.structure.calls import Op, Value, short_name, values
from sartor.structure.example import map_tensors, tensors

if TYPE_CHECKING:
    from sartor.structure.record import Recording

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
        self._known = {id(v): t for v, t in zip(recording.inputs, given) if t.device.type != "meta"}
        self._makers: dict[int, Op] = {}
        self._read = 0  # operators looked through for makers and writers
        self._written: set[int] = set()  # memory that some operator wrote to

    def __call__(self, func: OpOverload, args: Any, kwargs: Any) -> Any:
        """The answer of an operator that asks; NotImplemented for every other one.

        Raises:
            CannotTrace: it hangs on weights, on much data, or on memory written to.
        """
        if short_name(func) not in QUESTIONS:
            return NotImplemented
        for op in self.recording.ops[self._read :]:
            self._makers.update({id(v): op for v in op.outputs if all(v is not x for x in op.inputs)})
            if op.mutates:
                self._written.update(v.storage for v in op.inputs[:1])
        self._read = len(self.recording.ops)
        given = map_tensors(lambda t: self._value(self.recording.value(t)), args)
        return func(*given, **kwargs)

    def _value(self, v: Value) -> Tensor:
        """Of a Value, with everything it hangs on; without recursion, since chains are long."""
        todo = [v]
        while todo:
            top = todo[-1]
            if id(top) in self._known:
                todo.pop()
                continue
            op = self._makers.get(id(top))
            if op is None or top.storage in self._written or _elements(top) > _LARGEST:
                raise CannotTrace("its control flow looks at values that hang on weights")
            missing = [x for x in op.inputs if id(x) not in self._known]
            if missing:
                todo += missing
                continue
            found = op.func(*_real(op.args, self._known), **_real(op.kwargs, self._known))
            self._known.update({id(x): t for x, t in zip(values(op.out), tensors(found), strict=True)})
        return self._known[id(v)]


def repeated(op: Op, func: OpOverload) -> Any:
    """The answer that was given at this place when the graph was made; NotImplemented for what asks nothing."""
    return op.out if short_name(func) in QUESTIONS and op.func is func else NotImplemented


def _elements(v: Value) -> int:
    n = 1
    for s in v.shape:
        n *= s
    return n


def _real(x: Any, known: dict[int, Tensor]) -> Any:
    if isinstance(x, Value):
        return known[id(x)]
    if isinstance(x, torch.device):
        return torch.device("cpu")
    if isinstance(x, list | tuple):
        return type(x)(_real(v, known) for v in x)
    return {k: _real(v, known) for k, v in x.items()} if isinstance(x, dict) else x
