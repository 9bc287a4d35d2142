"""Attributes of modules that hold a size which a cut changes.

Rules name the attributes of torch.nn modules (`in_channels`, `num_features`, `groups`). Numbers that a user's forward
passes to view, split, slice or pad are looked for by value, in the module that made the call and then in its ancestors.
A match by value can be wrong; the shape check (`shape_check.py`) decides.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from sartor.structure.axes import Axis, find, new_size
from sartor.structure.constants import Constant, constants
from sartor.structure.graph import Graph

_NOT_WIDTHS = re.compile(
    r"kernel|stride|dilat|window|patch|img|image|grid|resol|shift|pool|level|depth|stage|num_layers|training|eps"
)
Attributes = dict[tuple[str, str], Any]  # (module path, attribute) -> new value


def attributes_for(model: nn.Module, graph: Graph, masks: Mapping[Axis, Tensor]) -> Attributes:
    """New values of all attributes that a cut by `masks` changes."""
    modules = dict(model.named_modules())
    kept = {a: int(m.sum()) for a, m in masks.items()}
    known = {op.path for op in graph.ops}
    ops = graph.ops + tuple(op for op in graph.every_op[len(graph.ops) :] if op.path not in known)
    ops += tuple(op for branch in graph.branches for op in branch.ops if op.path in known)
    found: Attributes = {}
    named: set[tuple[str, str]] = set()  # attributes that a rule has named
    for op in ops:
        module = modules.get(op.path)
        if module is None:
            continue
        for name, axes in op.sizes.items():
            several = isinstance(axes, list)
            listed = axes if isinstance(axes, list) else [axes]
            old = tuple(find(a).size for a in listed)
            new = tuple(new_size(a, kept) for a in listed)
            has = getattr(module, name, None)
            if has == (old if several else old[0]) or (several and has == list(old)):
                named.add((op.path, name))
                if old != new:
                    found[op.path, name] = new if several else new[0]
    for op in ops:
        for c in constants(op, masks):
            if c.old != c.new:
                _place(modules, op.path, c, found, named)
    return found


def _place(
    modules: Mapping[str, nn.Module], path: str, c: Constant, found: Attributes, named: set[tuple[str, str]]
) -> None:
    """Set a changed constant at the nearest module that holds its old value."""
    while True:
        module = modules.get(path)
        if module is not None and _place_in(module, path, c, found, named):
            return
        if not path:
            return
        path = path.rpartition(".")[0]


def _place_in(module: nn.Module, path: str, c: Constant, found: Attributes, named: set[tuple[str, str]]) -> bool:
    hit = False
    for name, value in vars(module).items():
        key = (path, name)
        if name.startswith("_") or key in named or _NOT_WIDTHS.search(name):
            continue
        if isinstance(c.old, tuple):
            if isinstance(value, list | tuple) and tuple(value) == c.old:
                found[key] = c.new
                hit = True
        elif type(value) is int and value == c.old and value > 1:
            found.setdefault(key, c.new)
            hit = True
        elif isinstance(value, list | tuple) and c.old > 1 and c.old in value and all(type(x) is int for x in value):
            if key not in found:
                found[key] = tuple(c.new if x == c.old else x for x in value)
            hit = True
    return hit
