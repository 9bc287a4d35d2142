"""A forward that can stop after every operator, for many batches at once; later operators see changed weights.

Layer-by-layer methods change a weight once the layers before it are done, and all layers behind must then see the
change. Running the forward again from the start for every layer costs the square of the depth; here each operator runs
once. Recorded operators are executed as they are, on real tensors; a tensor is released after its last reader.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sartor.activations.follow import follow
from sartor.borrow import borrowed, device_of
from sartor.errors import CannotTrace
from sartor.structure.calls import Op, Value, values
from sartor.structure.example import Example, call, tensors
from sartor.structure.model_copy import named_tensors
from sartor.structure.recorder import record
from sartor.structure.recording import Recording
from sartor.structure.value_reads import QUESTIONS

_SIZED_BY_VALUES = {"nonzero"}  # operators whose number of results depends on tensor values


class Stepper:
    """One model, several batches of one size, operator after operator.

    Args:
        model: borrowed; parameters and buffers are read anew whenever an operator runs, so that edits take effect.
        batches: inputs, all of one batch size, where the model lies.
        first: how many batches begin at once, the others in `begin`; None: all.

    Raises:
        CannotTrace: batches of unequal size, a forward whose control flow depends on tensor values, which a recording
            cannot repeat, or one that writes to the model's own tensors.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Example], first: int | None = None):
        sizes = {tuple(tuple(t.shape) for t in tensors(b)) for b in batches}
        if len(sizes) != 1:
            raise CannotTrace(f"stepping: expected batches of one shape; got {len(sizes)} different shapes")
        self.recording: Recording = record(model, batches[0])
        for op in self.ops:
            if op.name in _SIZED_BY_VALUES:
                raise _depends_on_values(op)
        own = {v.storage for v in self.recording.tensors.values()}
        for op in self.ops:
            if op.mutates and any(v.storage in own for v in op.inputs[:1]):
                raise CannotTrace(f"{op.where} writes to the model's own tensors: steps would change the model")
        self._device = device_of(model)
        self._held: dict[int, int] = {}  # id of a Value -> how many holders it has
        self._past = -1  # the last operator that ran
        self._named = {name: t.detach() for *_, name, t in named_tensors(model)}
        self._last = self._last_uses()
        self._ends: dict[int, list[int]] = {}
        for key, index in self._last.items():
            self._ends.setdefault(index, []).append(key)
        self._shared = self._constants(model, batches[0])
        written = {v.storage for op in self.ops if op.mutates for v in op.inputs[:1]}
        self._copied = {id(v) for v in self.recording.inputs if v.storage in written}
        self._given = list(batches)
        self._env: list[dict[int, Tensor]] = []
        self.begin(len(batches) if first is None else first)

    @property
    def ops(self) -> list[Op]:
        """In the order they run."""
        return self.recording.ops

    @property
    def batches(self) -> int:
        """How many have begun."""
        return len(self._env)

    def begin(self, count: int) -> None:
        """The first `count` batches take part; those that did not are run from the start to where the others are.

        They see the weights as they are now, so their tensors are those they would have had if they had begun at once
        and every layer whose weight was changed had been run again.
        """
        with torch.inference_mode():
            for b in self._given[len(self._env) : count]:
                given = zip(self.recording.inputs, tensors(b))
                env = {id(v): t.detach().clone() if id(v) in self._copied else t.detach() for v, t in given}
                self._env.append(self._shared | env)
                self._between(0, self._past, self._env[-1])

    def get(self, value: Value, batch: int) -> Tensor:
        """The tensor of a Value as it is now, in one batch."""
        return self._named[value.name] if value.name is not None else self._env[batch][id(value)]

    def advance(self, last: int) -> None:
        """Run every batch up to the operator `last`, that one included; tensors without a later reader are released."""
        with torch.inference_mode():
            for env in self._env:
                self._between(self._past + 1, last, env)
        self._past = max(self._past, last)

    def _between(self, first: int, last: int, env: dict[int, Tensor]) -> None:
        for op in self.ops[first : last + 1]:
            self._run(op, env)
            for key in self._ends.get(op.index, ()):
                if key not in self._held:
                    env.pop(key, None)

    def again(self, index: int) -> None:
        """Run one operator once more on every batch: what it reads must be held."""
        with torch.inference_mode():
            for env in self._env:
                self._run(self.ops[index], env)

    def _run(self, op: Op, env: dict[int, Tensor]) -> None:
        def real(x: Any) -> Any:
            if isinstance(x, torch.device):  # recorded on meta
                return self._device
            return self._named[x.name] if x.name is not None else env[id(x)]

        out = op.func(*_mapped(real, op.args), **_mapped(real, op.kwargs))
        if op.name in QUESTIONS and out != op.out:
            raise _depends_on_values(op)
        for v, t in zip(values(op.out), tensors(out), strict=True):
            env[id(v)] = t

    def hold(self, values_: Iterable[Value]) -> None:
        """Keep these beyond their last reader, until `free` was called as often."""
        for v in values_:
            self._held[id(v)] = self._held.get(id(v), 0) + 1

    def free(self, values_: Iterable[Value]) -> None:
        """The opposite of `hold`; tensors without a later reader are released."""
        for v in values_:
            self._held[id(v)] -= 1
            if not self._held[id(v)]:
                del self._held[id(v)]
                if self._last.get(id(v), len(self.ops)) <= self._past:
                    for env in self._env:
                        env.pop(id(v), None)

    def _last_uses(self) -> dict[int, int]:
        """Id of a Value -> the last operator that reads it; what the model returns has none."""
        last: dict[int, int] = {}
        for op in self.ops:
            for v in (*op.inputs, *op.outputs):
                if v.name is None:
                    last[id(v)] = op.index
        for v in self.recording.outputs:
            last.pop(id(v), None)
        return last

    def _constants(self, model: nn.Module, example: Example) -> dict[int, Tensor]:
        """Tensors the model holds outside its parameters and buffers, taken from a real forward."""
        made = {id(v) for v in self.recording.inputs}
        missing: set[int] = set()
        for op in self.ops:  # one by one: an operator may give the constant that it reads (`torch.tensor(2.0)`)
            missing |= {id(v) for v in op.inputs if v.name is None} - made
            made |= {id(v) for v in op.outputs}
        if not missing:
            return {}
        constants: dict[int, Tensor] = {}

        def take(op: Op, args: Any, kwargs: Any, out: Any) -> None:
            for v, t in zip(values((op.args, op.kwargs)), tensors((args, kwargs)), strict=True):
                if id(v) in missing and id(v) not in constants:
                    constants[id(v)] = t.clone()

        with borrowed(model), follow(self.ops, model, take):
            call(model, example)
        return constants


def _depends_on_values(op: Op) -> CannotTrace:
    return CannotTrace(f"{op.where}: the forward depends on tensor values, so it cannot be run step by step")


def _mapped(real: Any, x: Any) -> Any:
    if isinstance(x, Value | torch.device):
        return real(x)
    if isinstance(x, list | tuple):
        return type(x)(_mapped(real, v) for v in x)
    return {k: _mapped(real, v) for k, v in x.items()} if isinstance(x, dict) else x
