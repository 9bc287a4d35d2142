"""A recording: the operator calls of one forward, and the values between them."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn

from sartor.structure.calls import Op, Value
from sartor.structure.example import Example, map_tensors, tensors
from sartor.structure.model_copy import ATOMS, named_tensors
from sartor.structure.operator_watch import constant_number
from sartor.torch_internals import OpOverload, own_parameters, storage_address


class Recording:
    """The operator calls of one forward, and the values between them."""

    def __init__(self) -> None:
        self.ops: list[Op] = []
        self.tensors: dict[str, Value] = {}  # parameters and buffers, by every name they have
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self.example: Any = None
        self._seen: dict[int, _Held] = {}  # id of a living tensor -> its Value
        self._memory: dict[int, _Memory] = {}  # by address; a freed address is given to another storage
        self._storages = 0

    @classmethod
    def opened(cls, model: nn.Module, example: Example) -> Recording:
        """An empty recording that knows the tensors of the model and the inputs."""
        rec = cls()
        rec.example = example
        for owner, key, name, t in named_tensors(model):
            origin = "parameter" if key in own_parameters(owner) else "buffer"
            rec.tensors[name] = rec.value(t, origin, name)
        rec.inputs = [rec.value(t, "input") for t in tensors(example)]
        return rec

    def value(self, t: Tensor, origin: str = "a constant tensor", name: str | None = None) -> Value:
        """The Value of a tensor; a new one if the tensor was not seen before."""
        held = self._seen.get(id(t))
        if held is not None:
            return held.value
        return self._enter(t, None, name, origin)

    def same(self, known: Tensor, t: Tensor) -> None:
        """`t` stands for the same Value as `known`."""
        if id(t) not in self._seen:
            self._enter(t, self.value(known))

    def _enter(self, t: Tensor, v: Value | None, name: str | None = None, origin: str = "") -> Value:
        address = storage_address(t)
        memory = self._memory.get(address)
        if memory is None:
            memory = self._memory[address] = _Memory(self._storages, address)
            self._storages += 1
        memory.tensors += 1
        if v is None:
            v = Value(tuple(t.shape), t.dtype, memory.number, name, origin)
            if origin == "a constant tensor":
                v.number = constant_number(t)
        held = self._seen[id(t)] = _Held(t, _gone)
        held.key, held.value, held.memory, held.rec = id(t), v, memory, self
        return v

    def see(self, func: OpOverload, args: Any, kwargs: Any, out: Any, path: str) -> None:
        """Record one operator call."""
        op = Op(len(self.ops), func, path, self._values(args), self._values(kwargs) if kwargs else {}, None)
        self.ops.append(op)
        op.out = self.value(out, "op") if isinstance(out, Tensor) else map_tensors(lambda t: self.value(t, "op"), out)

    def _values(self, x: Any) -> Any:
        if type(x) in ATOMS:
            return x
        if isinstance(x, Tensor):
            return self.value(x)
        if type(x) is tuple or type(x) is list:
            return type(x)([self._values(v) for v in x])
        return map_tensors(self.value, x)


class _Memory:
    """A storage, and how many living tensors use it."""

    __slots__ = ("address", "number", "tensors")

    def __init__(self, number: int, address: int):
        self.number, self.address, self.tensors = number, address, 0


class _Held(weakref.ref[Tensor]):
    """A weak reference that notes when its tensor is freed."""

    __slots__ = ("key", "memory", "rec", "value")
    key: int
    value: Value
    memory: _Memory
    rec: Recording


def _gone(held: Any) -> None:
    held.value.died = len(held.rec.ops)
    held.rec._seen.pop(held.key, None)
    held.memory.tensors -= 1
    if not held.memory.tensors:
        held.rec._memory.pop(held.memory.address, None)


__all__ = ["Recording"]
