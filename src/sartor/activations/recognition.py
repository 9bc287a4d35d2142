"""Recognise the calls of a running forward among recorded operators: by the parameters they read, and by data flow.

A forward on other data need not call what was recorded: a padded batch adds a mask, a cache answers instead of the
operators that filled it, a loop runs more often, an early exit ends it. So a call is not recognised by its place.

- A call that reads parameters or buffers is the recorded operator of the same name that reads the same ones.
- Any other call is the recorded operator of the same name in the same module whose inputs are the same results. An
  input also counts as the same where operators lie between that only one of the two forwards has: the softmax of
  `scores + mask` is recognised as that of `scores`.
- Where one module is called several times, results decide which of its calls this is, then the order. Calls beyond
  those that were recorded (a longer loop) are recognised as the last of them.

Calls that are not recognised simply run. On the recorded path every call takes one comparison with the operator
expected next; the search is for the others.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sartor.structure.calls import Op, Value, argument_names, short_name
from sartor.structure.graph import Graph
from sartor.structure.graph_cache import per_graph
from sartor.torch_internals import OpOverload

_FARTHEST = 64  # results looked at behind one input, through operators that only one of the two forwards has
_NOTHING: frozenset[int] = frozenset()


class Recorded:
    """The operators of one recording, arranged for the search."""

    def __init__(self, ops: Sequence[Op]):
        self.ops = ops
        self.named: dict[str, Value] = {}
        for op in ops:
            for v in op.inputs:
                if v.name is not None:
                    self.named[v.name] = v

    @cached_property
    def values(self) -> dict[int, Value]:
        """By id."""
        return {id(v): v for op in self.ops for v in (*op.inputs, *op.outputs)}

    @cached_property
    def slots(self) -> list[dict[str, Value]]:
        """For each operator, its Values by the name of the argument."""
        return [dict(_slots(op.func, op.args, op.kwargs, Value)) for op in self.ops]

    @cached_property
    def producer(self) -> dict[int, int]:
        """Id of a Value -> the first operator that gives it without being given it."""
        first: dict[int, int] = {}
        for op in self.ops:
            for v in op.outputs:
                if all(v is not x for x in op.inputs):
                    first.setdefault(id(v), op.index)
        return first

    @cached_property
    def reading(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], list[int]]:
        """(operator, its parameters by argument) -> the operators."""
        table: dict[Any, list[int]] = {}
        for op, slots in zip(self.ops, self.slots):
            if parameters := _parameters(slots.items()):
                table.setdefault((op.name, parameters), []).append(op.index)
        return table

    @cached_property
    def plain(self) -> dict[tuple[str, str], list[int]]:
        """(operator, module path) -> the operators that read results and no parameters."""
        table: dict[Any, list[int]] = {}
        for op, slots in zip(self.ops, self.slots):
            if slots and not _parameters(slots.items()):
                table.setdefault((op.name, op.path), []).append(op.index)
        return table

    def behind(self, value: Value, seen: Sequence[int]) -> frozenset[int]:
        """Ids of a Value and of those it is computed from by operators that were not seen so far."""
        reached, todo = {id(value)}, [value]
        while todo and len(reached) < _FARTHEST:
            producer = self.producer.get(id(todo.pop()))
            if producer is not None and not seen[producer]:
                for v in self.ops[producer].inputs:
                    if id(v) not in reached and v.name is None:
                        reached.add(id(v))
                        todo.append(v)
        return frozenset(reached)


@per_graph
def recorded(graph: Graph) -> Recorded:
    """The operators of a graph, arranged for the search."""
    return Recorded(graph.ops)


class Recogniser:
    """Which recorded operator each call of one forward is.

    For every call in turn: `find` before or behind it, then `enter` with what it gave.

    Args:
        known: the recorded operators.
        tensors: parameters and buffers by name, as the forward reads them; held until the end.
        path: gives the path of the module that makes the present call; asked only for a search.
    """

    def __init__(self, known: Recorded, tensors: Mapping[str, Tensor], path: Callable[[], str]):
        self.known, self.ops, self.path = known, known.ops, path
        self.place = 0  # the operator expected next
        self.calls = [0] * len(self.ops)  # how often each operator was seen
        self._held: dict[int, _Held] = {}  # by id of a living tensor
        self._fresh: list[tuple[Any, Value]] = []  # tensors no operator gave, and what the present call knows them as
        self._tensors = list(tensors.values())
        self._named: dict[int, Value] = {}
        for name, t in tensors.items():
            v = known.named.get(name)
            if v is not None:
                self._named.setdefault(id(t), v)
            else:
                self._named.setdefault(id(t), _UNREAD)

    def find(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Op | None:
        """The recorded operator that a call is; None: it is none of them."""
        self._fresh.clear()
        if self.place < len(self.ops):
            op = self.ops[self.place]
            if op.func is func and self._expected(op.inputs, args, kwargs):
                return op
        self._fresh.clear()
        return self._search(func, args, kwargs)

    def _expected(self, values: Sequence[Value], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether a call reads just these."""
        n = 0
        named, held = self._named, self._held
        given: Iterable[Any] = args if not kwargs else (*args, *kwargs.values())
        for a in given:
            for t in a if type(a) is list or type(a) is tuple else (a,):
                if not isinstance(t, Tensor):
                    continue
                if n == len(values):
                    return False
                v, key = values[n], id(t)
                n += 1
                is_parameter = named.get(key)
                if is_parameter is not None:
                    if is_parameter is not v:
                        return False
                    continue
                entry = held.get(key)
                if entry is None:
                    if v.name is not None or v.origin == "op":
                        return False
                    self._fresh.append((t, v))
                elif entry.value is not v and id(v) not in entry.others:
                    return False
        return n == len(values)

    def _search(self, func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Op | None:
        slots = list(_slots(func, args, kwargs, Tensor))
        if not slots:
            return None
        parameters = _parameters((s, v) for s, t in slots if (v := self._named.get(id(t))) is not None)
        name = short_name(func)
        if parameters:
            candidates = self.known.reading.get((name, parameters), [])
        else:
            candidates = self.known.plain.get((name, self.path()), [])
        best, best_rank = None, None
        for index in candidates:
            agree, exact, conflict = self._agreement(index, slots)
            seen = bool(self.calls[index])
            if not parameters and (conflict or not agree or (seen and not exact)):
                continue
            rank = (conflict == 0, exact, not seen, agree - conflict, index if seen else -index)
            if best_rank is None or rank > best_rank:
                best, best_rank = index, rank
        if best is None:
            return None
        for slot, t in slots:
            v = self.known.slots[best].get(slot)
            if v is not None and id(t) not in self._named and id(t) not in self._held and _source(v):
                self._fresh.append((t, v))
        return self.ops[best]

    def _agreement(self, index: int, slots: Sequence[tuple[str, Any]]) -> tuple[int, bool, int]:
        """(inputs that are the same, whether all are just those recorded, inputs that are others)."""
        wanted = self.known.slots[index]
        agree = conflict = 0
        exact = len(wanted) == len(slots)
        for slot, t in slots:
            v = wanted.get(slot)
            if v is None:
                exact = False
                continue
            if self._named.get(id(t)) is not None:
                continue  # compared already
            entry = self._held.get(id(t))
            if entry is None:
                exact = exact and _source(v)
                continue
            if entry.value is v or id(v) in entry.others:
                agree += 1
                continue
            exact = False
            mine = entry.cover
            if mine:
                met = not mine.isdisjoint(self.known.behind(v, self.calls))
                agree, conflict = agree + met, conflict + (not met)
        return agree, exact, conflict

    def enter(self, op: Op | None, func: OpOverload, args: Any, kwargs: Any, out: Any) -> None:
        """The call is done: it was `op`, and gave `out`."""
        if op is not None:
            for t, v in self._fresh:
                self._enter(t, v)
            self.calls[op.index] += 1
            self.place = op.index + 1
            if isinstance(out, Tensor):
                if isinstance(op.out, Value):
                    self._enter(out, op.out)
            elif isinstance(out, list | tuple):
                whats = op.out if isinstance(op.out, list | tuple) else ()
                for t, v in zip(out, whats):
                    if isinstance(t, Tensor) and isinstance(v, Value):
                        self._enter(t, v)
            return
        cover: frozenset[int] | None = None
        for t in out if isinstance(out, list | tuple) else (out,):
            if isinstance(t, Tensor) and id(t) not in self._held and id(t) not in self._named:
                if cover is None:
                    cover = self._covered(func, args, kwargs)
                self._enter(t, None, cover)

    def same(self, known: Any, t: Any) -> None:
        """`t` stands for the same as `known`."""
        entry, v = self._held.get(id(known)), self._named.get(id(known))
        if v is not None:
            self._named[id(t)] = v
            self._tensors.append(t)
        elif entry is not None:
            self._enter(t, entry.value, entry.cover)

    def _covered(self, func: OpOverload, args: Any, kwargs: Any) -> frozenset[int]:
        """The nearest recognised results that a call reads, behind calls that were not recognised."""
        cover: frozenset[int] = _NOTHING
        for _, t in _slots(func, args, kwargs, Tensor):
            entry = self._held.get(id(t))
            if entry is not None and len(cover) < _FARTHEST:
                cover = cover | entry.cover
        return cover

    def _enter(self, t: Any, value: Value | None, cover: frozenset[int] = _NOTHING) -> None:
        entry = self._held.get(id(t))
        if entry is None:
            entry = self._held[id(t)] = _Held(t, _forget)
            entry.key, entry.held, entry.value, entry.others = id(t), self._held, value, _NOTHING
            entry.cover = cover if value is None else frozenset((id(value),))
        elif value is not None and entry.value is not value:
            if entry.value is not None:
                entry.others = entry.others | {id(entry.value)}
            entry.value, entry.cover = value, entry.cover | {id(value)}


class _Held(weakref.ref[Any]):
    """What a living tensor is known as; forgotten with it, because its id goes to another one."""

    __slots__ = ("cover", "held", "key", "others", "value")
    value: Value | None  # the recorded result that it is
    others: frozenset[int]  # ids of further ones, where an operator gave back what it took
    cover: frozenset[int]  # ids of the recorded results that it is, or is computed from by calls not recognised
    key: int
    held: dict[int, Any]


def _forget(entry: Any) -> None:
    entry.held.pop(entry.key, None)


_UNREAD = Value((), torch.float32, -1, "", "")  # a parameter that no recorded operator reads


def _source(v: Value) -> bool:
    """Whether no operator gave it: an input of the forward, or a constant that a module holds."""
    return v.name is None and v.origin != "op"


def _parameters(slots: Iterable[tuple[str, Value]]) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((slot, v.name) for slot, v in slots if v.name is not None))


def _slots(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], kind: type) -> Iterable[tuple[str, Any]]:
    """(name of the argument, tensor) of all that a call reads; of a list, name and place."""
    names = argument_names(func)
    for name, a in (*zip(names, args), *kwargs.items()):
        if isinstance(a, kind):
            yield name, a
        elif isinstance(a, list | tuple):
            for i, t in enumerate(a):
                if isinstance(t, kind):
                    yield f"{name}.{i}", t


__all__ = ["Recogniser", "Recorded", "recorded"]
