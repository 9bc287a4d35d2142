"""Attributes of modules that hold a size which a cut changes.

Rules name the attributes of torch.nn modules (`in_channels`, `num_features`, `groups`). Numbers that a user's forward
passes to view, split, slice or pad are looked for by value, in the module that made the call and then in its ancestors.
Such a match is a claim: "this attribute holds that size". A claim by value can be wrong, and two claims on one
attribute can differ. The shape check (`shape_check.py`) decides; `probe.py` says which claim holds, or that none does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from sartor.structure.axes import Axis, find, fixed, fresh, multiple, product
from sartor.structure.calls import Op
from sartor.structure.graph import Graph
from sartor.structure.masks import Masks
from sartor.structure.model_copy import modules_by_path
from sartor.structure.stated_sizes import Stated, stated_sizes
from sartor.types import Reason

_NOT_WIDTHS = re.compile(
    r"kernel|stride|dilat|window|patch|img|image|grid|resol|shift|pool|level|depth|stage|num_layers|training|eps"
)
_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
Attributes = dict[tuple[str, str], Any]  # (module path, attribute) -> new value
Place = tuple[str, str, Any]  # module path, attribute, the old value of it or of one of its elements


@dataclass(frozen=True, slots=True)
class Claim:
    """An operator states a size, and an attribute holds the same number."""

    place: Place
    op: int  # index in graph.every_op
    size: Stated


@dataclass(frozen=True)
class Claims:
    """All claims of a graph on the attributes of a model."""

    named: Mapping[tuple[str, str], tuple[list[Axis], bool]]  # by rules: the axes, and whether there are several
    by_value: Mapping[Place, list[Claim]]  # in the order of the operators
    found: _Holders
    stated: bool  # whether any operator is called with a number that a cut changes, or two name one attribute

    @classmethod
    def of(cls, model: nn.Module, graph: Graph) -> Claims:
        """The claims of every operator, each once."""
        modules = modules_by_path(model)
        named: dict[tuple[str, str], tuple[list[Axis], bool]] = {}
        stated = False
        for op in graph.every_op:
            module = modules.get(op.path)
            for name, axes in op.sizes.items() if module is not None else ():
                several = isinstance(axes, list)
                listed = axes if isinstance(axes, list) else [axes]
                old = tuple(find(a).size for a in listed)
                has = getattr(module, name, None)
                if has == (old if several else old[0]) or (several and has == list(old)):
                    first, _ = named.setdefault((op.path, name), (listed, several))
                    stated = stated or list(map(find, first)) != list(map(find, listed))
        by_value: dict[Place, list[Claim]] = {}
        holders = _Holders(modules, set(named), {op.path for op in graph.every_op})
        for i, op in enumerate(graph.every_op):
            for size in stated_sizes(op):
                stated = stated or (not size.fixed and _is_passed(op, size))
                for place in holders.of(op.path, size.old):
                    claims = by_value.setdefault(place, [])
                    if all(not alike_sizes(c.size, size) for c in claims):
                        claims.append(Claim(place, i, size))
        return cls(named, by_value, holders, stated)

    def at(self, op: Op) -> Iterator[tuple[Place, Stated]]:
        """The places that one operator claims."""
        for size in stated_sizes(op):
            for place in self.found.of(op.path, size.old):
                yield place, size

    def number(self, place: Place, size: Stated) -> int | None:
        """The number of the first claim on a place for this size."""
        return next((i for i, c in enumerate(self.by_value[place]) if alike_sizes(c.size, size)), None)

    @cached_property
    def places(self) -> Mapping[tuple[str, str], list[Place]]:
        """The claimed places of each attribute."""
        found: dict[tuple[str, str], list[Place]] = {}
        for place in self.by_value:
            found.setdefault(place[:2], []).append(place)
        return found

    def holding(self, place: Place, holders: Mapping[Place, int | None]) -> Claim | None:
        """The claim that decides: the one that `holders` numbers, otherwise the first whose size a cut changes."""
        claims = self.by_value[place]
        if place in holders:
            i = holders[place]
            return None if i is None else claims[i]
        return next((c for c in claims if not c.size.fixed), None)

    def values(self, model: nn.Module, masks: Mapping[Axis, Tensor], holders: Mapping[Place, int | None]) -> Attributes:
        """New values of all attributes that a cut by `masks` changes."""
        cut = Masks.of(masks)
        changed: Attributes = {}
        for key, (axes, several) in self.named.items():
            new = tuple(map(cut.size, axes))
            if new != tuple(find(a).size for a in axes):
                changed[key] = new if several else new[0]
        modules = modules_by_path(model)
        for (path, name), places in self.places.items():
            old = getattr(modules[path], name)
            new_value = old if isinstance(old, int) else tuple(old)
            elements: dict[int, int] = {}
            for place in places:
                claim = self.holding(place, holders)
                if claim is None:
                    continue
                value = claim.size.new(cut)
                if place[2] == (old if isinstance(old, int) else tuple(old)):
                    new_value = value  # type: ignore[assignment]
                else:
                    elements[place[2]] = value  # type: ignore[assignment]
            if elements and new_value == tuple(old):
                new_value = tuple(elements.get(x, x) for x in old)
            if new_value != (old if isinstance(old, int) else tuple(old)):
                changed[path, name] = new_value
        return changed


def attributes_for(model: nn.Module, graph: Graph, masks: Mapping[Axis, Tensor]) -> Attributes:
    """New values of all attributes that a cut by `masks` changes."""
    return Claims.of(model, graph).values(model, masks, graph.holders)


def _is_passed(op: Op, size: Stated) -> bool:
    """Whether a call passes one of the numbers of a size that a cut changes; `x.flatten(1)` passes none."""
    numbers = {abs(p.old) for p in size.parts if not p.fixed}
    return any(
        type(n) is int and abs(n) in numbers
        for x in (*op.args, *op.kwargs.values())
        for n in (x if isinstance(x, list | tuple) else (x,))
    )


class _Holders:
    """Attributes by the number they hold: those of the nearest module that holds it.

    A child of a module that calls no operator itself may be one whose methods the module calls (`self.bias.table()`).
    Its attributes count as the module's: all of them, or those of the same name where the module holds the number too.
    """

    def __init__(self, modules: Mapping[str, nn.Module], named: set[tuple[str, str]], calling: set[str]):
        self.modules, self.named = modules, named
        self._silent: dict[str, list[str]] = {}  # module path -> its children that call no operator themselves
        for path, module in modules.items():
            if path and path not in calling and not isinstance(module, _LISTS):
                self._silent.setdefault(path.rpartition(".")[0], []).append(path)
        self._own: dict[str, list[tuple[str, Any]]] = {}
        self._known: dict[tuple[str, Any], list[Place]] = {}

    def of(self, path: str, number: Any) -> list[Place]:
        """The places of a number or tuple of numbers, seen from the module at `path`."""
        key = (path, number)
        if key not in self._known:
            found = list(self._inside(path, number))
            names = {name for _, name, _ in found}
            for child in self._silent.get(path, ()):
                found += [place for place in self._inside(child, number) if not names or place[1] in names]
            if not found and path:
                found = self.of(path.rpartition(".")[0], number)
            self._known[key] = found
        return self._known[key]

    def _inside(self, path: str, number: Any) -> Iterator[Place]:
        if path not in self._own:
            own = vars(self.modules[path]) if path in self.modules else {}
            self._own[path] = [
                (name, value if isinstance(value, int) else tuple(value))
                for name, value in own.items()
                if not (name.startswith("_") or (path, name) in self.named or _NOT_WIDTHS.search(name))
                and (type(value) is int or (isinstance(value, list | tuple) and all(type(x) is int for x in value)))
            ]
        for name, value in self._own[path]:
            if isinstance(number, tuple) or type(value) is int:
                hit = value == number
            else:
                hit = number in value
            if hit and (isinstance(number, tuple) or number > 1):
                yield path, name, number


def alike_sizes(a: Stated, b: Stated) -> bool:
    """Whether two stated sizes are equal after every cut."""
    return len(a.parts) == len(b.parts) and all(
        (find(x.axis), x.start, x.stop, x.sign) == (find(y.axis), y.start, y.stop, y.sign)
        or (x.whole and y.whole and x.sign == y.sign and _same_axis(x.axis, y.axis))
        for x, y in zip(a.parts, b.parts)
    )


def _same_axis(a: Axis, b: Axis) -> bool:
    """Whether two axes consist of the same leaves in the same way."""
    a, b = find(a), find(b)
    if a is b or (a.frozen and b.frozen):
        return a.size == b.size
    if a.kind != b.kind or a.kind is None or a.frozen or b.frozen or len(a.kids) != len(b.kids):
        return False
    return all(map(_same_axis, a.kids, b.kids))


def leaves_to_refine(a: Stated, b: Stated, *, grids: bool = False) -> list[tuple[Axis, Axis]]:
    """(leaf, structure) where the other size is made of several leaves, or of one several times, at the same place.

    Once the leaf has that structure, ties can make the two sizes equal. Rotary position embedding makes such sizes: it
    swaps the two halves of every query and key, or of a part of them, but not of the values.

    Args:
        grids: only structures whose units are cut by rows and columns, as an embedding width that must equal
            heads * head dimension. They take much freedom from the leaf.
    """
    found: list[tuple[Axis, Axis]] = []
    for x, y in zip(a.parts, b.parts):
        if x.whole and y.whole and x.sign == y.sign:
            found += _refinable(_factors(x.axis), _factors(y.axis))
    return [(leaf, to) for leaf, to in dict.fromkeys(found) if grids == (_cuttable_factors(to) > 1)]


def _cuttable_factors(a: Axis) -> int:
    return sum(not f.frozen for f in _factors(a))


def _factors(a: Axis) -> list[Axis]:
    a = find(a)
    return [a] if a.kind != "p" or a.frozen else _flat(a)


def _refinable(left: list[Axis], right: list[Axis]) -> list[tuple[Axis, Axis]]:
    left, right = list(left), list(right)
    found: list[tuple[Axis, Axis]] = []
    while left and right:
        x, y = left.pop(0), right.pop(0)
        if x.size > y.size or (x.size == y.size and x.kind is None):
            x, y, left, right = y, x, right, left
        short = [x]
        while math.prod(k.size for k in short) < y.size and left:
            short.append(left.pop(0))
        other = product(short)
        times = multiple(other)
        if other.size != y.size:
            return []
        if y.kind is not None or y.frozen or other.frozen:
            continue
        if times is not None and times[0] > 1:
            found.append((y, product([fixed(times[0], Reason("one number")), fresh(y.size // times[0])])))
        elif times is None:
            found.append((y, other))
    return found


def pairs_to_tie(a: Stated, b: Stated) -> list[tuple[Axis, Axis]] | None:
    """Leaves that must keep equal counts so that two stated sizes are equal after every cut; None: no ties do that."""
    found: list[tuple[Axis, Axis]] = []
    if len(a.parts) != len(b.parts):
        return None
    for x, y in zip(a.parts, b.parts):
        if alike_sizes(Stated((x,)), Stated((y,))):
            continue
        if not (x.whole and y.whole and x.sign == y.sign):
            return None
        matched = _matched(x.axis, y.axis)
        if matched is None:
            return None
        found += matched
    return list(dict.fromkeys(found))


def _flat(a: Axis) -> list[Axis]:
    """The parts of a product or sum, without nesting: refining a leaf nests one product in another."""
    a = find(a)
    return [x for k in map(find, a.kids) for x in (_flat(k) if k.kind == a.kind and not k.frozen else [k])]


def _matched(a: Axis, b: Axis) -> list[tuple[Axis, Axis]] | None:
    a, b = find(a), find(b)
    if a is b or (a.frozen and b.frozen and a.size == b.size):
        return []
    if a.size != b.size or a.frozen or b.frozen:
        return None
    one, other = multiple(a), multiple(b)
    if one is not None and other is not None and one[0] == other[0]:
        return [] if one[1] is other[1] else [(one[1], other[1])]
    if a.kind != b.kind or a.kind is None:
        return None
    kids = (_flat(a), _flat(b))
    if len(kids[0]) != len(kids[1]):
        return None
    parts = [_matched(x, y) for x, y in zip(*kids)]
    return None if any(p is None for p in parts) else [pair for p in parts for pair in p or ()]
