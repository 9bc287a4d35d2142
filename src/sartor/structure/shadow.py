"""One copy of a model on meta for many forwards: what a forward, or its caller, changes on the copy is put back."""

from __future__ import annotations

import functools
import operator
import types
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copyreg import _slotnames  # type: ignore[attr-defined]
from enum import Enum
from typing import Any

from torch import Tensor, nn

from sartor.structure.model_copy import ATOMS, clone, empty_like_on_meta, evaluating, named_tensors
from sartor.torch_internals import own_buffers, own_parameters

_CONTAINERS = {dict, OrderedDict, list, set}


class Shadow:
    """A copy of a model on meta, in evaluation mode, that is lent for one forward after the other.

    The model must not change while the shadow is in use. Finding everything that could change takes longer than a copy,
    so the first copy serves once and the second one is kept. A model that holds objects whose state cannot be put back
    is copied anew each time.

    Args:
        model: whose structure, attributes and shapes are copied.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._copy: nn.Module | None = None
        self._before: _State | None = None  # None: the copy cannot be put back
        self._made = 0

    @contextmanager
    def lent(self, shapes: Mapping[str, tuple[int, ...]] | None = None) -> Iterator[nn.Module]:
        """The copy, for one forward.

        Args:
            shapes: of every parameter and buffer by name; None: the model's own.
        """
        self._made += self._copy is None
        if self._made == 1:
            self._copy = evaluating(_resized(self._model, shapes))
        elif self._copy is None:
            self._copy = evaluating(_resized(self._model, None))
            if self._made == 2 or self._before is not None:
                self._before = _State.of(self._copy)
        copy, before = self._copy, self._before
        assert copy is not None
        if shapes is not None and self._made > 1:
            _resize_(copy, shapes)
        try:
            yield copy
        finally:
            if before is None or not before.put_back():
                self._copy = None


def _resized(model: nn.Module, shapes: Mapping[str, tuple[int, ...]] | None) -> nn.Module:
    """A copy on meta."""
    if shapes is None:
        return clone(model, empty_like_on_meta)
    by_id = {id(t): shapes[name] for *_, name, t in named_tensors(model)}
    return clone(model, lambda t: empty_like_on_meta(t, by_id[id(t)]))


def _resize_(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Put meta tensors of other shapes in the place of those whose shape differs; tied ones stay tied."""
    new: dict[int, Tensor] = {}
    for owner, key, name, t in list(named_tensors(model)):
        shape = shapes[name]
        if shape == tuple(t.shape):
            continue
        if id(t) not in new:
            other = empty_like_on_meta(t, shape)
            new[id(t)] = nn.Parameter(other, t.requires_grad) if isinstance(t, nn.Parameter) else other
        parameters = own_parameters(owner)
        (parameters if key in parameters else own_buffers(owner))[key] = new[id(t)]


class _State:
    """Every attribute and container of a model, as they were."""

    def __init__(self) -> None:
        self._objects: list[tuple[dict[str, Any], dict[str, Any]]] = []  # `__dict__` and a copy of it
        self._containers: list[tuple[Any, Any]] = []  # a dict, list or set, and a copy of it
        self._tensors: list[tuple[Tensor, tuple[int, ...]]] = []

    @classmethod
    def of(cls, model: nn.Module) -> _State | None:
        """The present state; None if it holds an object whose state is not known."""
        state, seen = cls(), set()
        todo: list[Any] = [model]
        while todo:
            x = todo.pop()
            kind: Any = type(x)
            if kind in ATOMS or id(x) in seen or isinstance(x, Enum):
                continue
            seen.add(id(x))
            if isinstance(x, Tensor):
                state._tensors.append((x, tuple(x.shape)))
            elif kind in _CONTAINERS:
                state._containers.append((x, x.copy()))
                if x:
                    todo += [v for v in ([*x, *x.values()] if isinstance(x, dict) else x) if type(v) not in ATOMS]
            elif kind in (tuple, frozenset):
                todo += x
            elif kind is types.MethodType:
                todo.append(x.__self__)
            elif kind is functools.partial:
                todo += [x.func, x.args, x.keywords]
            elif isinstance(x, nn.Module) or _plain(kind):
                state._objects.append((vars(x), vars(x).copy()))
                todo += [v for v in vars(x).values() if type(v) not in ATOMS]
            else:
                return None
        return state

    def put_back(self) -> bool:
        """Restore everything; False: a tensor was resized in place."""
        for now, before in self._objects:
            if len(now) != len(before) or not all(map(operator.is_, now.values(), before.values())):
                now.clear()
                now.update(before)
        for now, before in self._containers:
            if not now and not before:
                continue
            if not _same(now, before):
                now.clear()
                now.extend(before) if isinstance(now, list) else now.update(before)
        return all(t.shape == shape for t, shape in self._tensors)


def _same(a: Any, b: Any) -> bool:
    if len(a) != len(b):
        return False
    if isinstance(a, set):
        return bool(a == b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(map(operator.is_, a.values(), b.values()))
    return all(map(operator.is_, a, b))


@functools.cache
def _plain(kind: Any) -> bool:
    """Whether all state of an object of this class is in its `__dict__`."""
    builtin = [k for k in kind.__mro__ if k is not object and not k.__flags__ & (1 << 9)]  # not defined in Python
    return not builtin and kind.__dictoffset__ != 0 and not _slotnames(kind)


__all__ = ["Shadow"]
