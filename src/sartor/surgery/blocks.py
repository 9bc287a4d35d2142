"""Modules that are built alike: same class, same tensors, same operators. What is true of one is true of the others."""

from __future__ import annotations

from typing import Any

from torch import nn

from sartor.structure.graph import Graph
from sartor.structure.model_copy import modules_of, named_tensors


class Blocks:
    """The modules of a model that are built alike, and which operator of one corresponds to which of another."""

    def __init__(self, model: nn.Module, graph: Graph):
        self._ops: dict[str, list[int]] = {}
        self._kinds: dict[str, Any] = {}
        self._graph = graph
        tensors: dict[str, list[Any]] = {}
        for *_, name, t in named_tensors(model):
            for path in lineage(name.rpartition(".")[0]):
                tensors.setdefault(path, []).append((name.removeprefix(f"{path}."), tuple(t.shape)))
        for i, op in enumerate(graph.every_op):
            for path in lineage(op.path):
                self._ops.setdefault(path, []).append(i)
        self._alike: dict[Any, list[str]] = {}
        for module, path in modules_of(model).items():
            if path:
                kind = (type(module), tuple(tensors.get(path, ())), len(self._ops.get(path, ())))
                self._kinds[path] = kind
                self._alike.setdefault(kind, []).append(path)

    def alike(self, path: str) -> list[str]:
        """Paths of the other modules that are built like the one at `path` and call the same operators."""
        others = [p for p in self._alike.get(self._kinds.get(path), ()) if p != path]
        called = self._called(path) if others else ()
        return [p for p in others if self._called(p) == called]

    def counterpart(self, op: int, path: str, other: str) -> int | None:
        """The operator inside the module `other` that corresponds to an operator inside the module at `path`."""
        mine, theirs = self._ops.get(path, []), self._ops.get(other, [])
        if op not in mine or len(mine) != len(theirs):
            return None
        return theirs[mine.index(op)]

    def _called(self, path: str) -> tuple[Any, ...]:
        ops = self._graph.every_op
        return tuple(ops[i].func for i in self._ops.get(path, ()))


def lineage(path: str) -> list[str]:
    """The path of a module and those of the modules around it; the model itself comes last.

    >>> lineage("a.b")
    ['a.b', 'a', '']
    """
    found = [path]
    while path:
        path = path.rpartition(".")[0]
        found.append(path)
    return found


__all__ = ["Blocks", "lineage"]
