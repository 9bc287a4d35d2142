"""Why units are tied: the operators that unified the axes of several layers, derived from the solved graph.

The solver keeps no history. Instead the rule of each operator that carries the units is applied once more, to fresh
axes of that operator alone. It shows which dimensions of inputs and outputs the operator unifies. These links form a
graph of (tensor, dimension) places; the shortest path between two places is the explanation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sartor.errors import UnknownName
from sartor.structure.axes import Axis, Conflict, find, fresh, leaves
from sartor.structure.calls import Op, Value, values
from sartor.structure.graph import Graph
from sartor.structure.kinds import counted
from sartor.structure.rules.registry import lookup

_Place = tuple[int, int]  # id of a value, dimension
_Named = tuple[str, int]  # a parameter or buffer, dimension
_SILENT = {  # kinds that only pass units on: the explanation leaves them out
    "identity", "spatial", "move", "expand", "softmax", "factory", "reduce", "select", "index", "normalize", "pack",
}  # fmt: skip
_WEIGHING = {"conv", "linear", "matmul", "rnn", "embedding", "prelu"}
_NORMS = {"batch_norm", "layer_norm", "group_norm", "instance_norm", "weight_norm"}
_SAYS = {
    "add": "adds them, unit by unit, to what {other} gives",
    "sub": "subtracts from them, unit by unit, what {other} gives",
    "mul": "multiplies them, unit by unit, with what {other} gives",
    "cat": "concatenates them with what {other} gives",
}
_KIND_SAYS = {
    "view": "reshapes them",
    "slice": "takes a contiguous part of them",
    "split": "splits them",
    "concat": "concatenates them with others",
    "pad": "pads them",
    "shuffle": "shuffles them",
    "attention": "uses them in attention",
    "glu": "gates one half of them with the other",
}


@dataclass(frozen=True)
class Step:
    """One operator of an explanation."""

    operator: str
    module: str
    text: str

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Chain:
    """How the units of one group pass from one place to another."""

    group: str
    kind: str
    units: int
    start: str
    end: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        if not self.steps:
            return f"{self.start} alone holds the {self.units} units of the group {self.group} ({self.kind})"
        head = f"{self.start} and {self.end} share {self.units} units of the group {self.group} ({self.kind}):"
        return "\n".join([head, *(f"  {i}. {s}" for i, s in enumerate(self.steps, start=1))])


@dataclass(frozen=True)
class Explanation:
    """Chains of operators and further facts; `str` gives the text."""

    chains: tuple[Chain, ...]
    facts: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([*map(str, self.chains), *self.facts])


def explain(graph: Graph, what: str, other: str | None = None) -> Explanation:
    """Explain why layers are tied, or what the axes of a layer are.

    Args:
        graph: from `trace` or `probe`.
        what: a group, a parameter ("fc.weight", "fc.weight:1") or a module ("layer1.0.conv2").
        other: a second name; the result is the shortest chain of operators between the two, for each group they share.

    Returns:
        For one group: the operators that tie all of its members. For one parameter or module: the group of each of its
        axes, or why the axis is frozen. For two names: the chains.

    Raises:
        UnknownName: the graph has no group, parameter or module of that name.
    """
    if other is None:
        if what in graph.groups:
            return Explanation((_whole(graph, what),), _equal(graph, what))
        return Explanation((), tuple(_axes_of(graph, _named(graph, what))))
    here, there = _named(graph, what), _named(graph, other)
    chains = []
    for name, leaf in graph.leaves.items():
        ends = [[p for p in side if _holds(graph, p, leaf)] for side in (here, there)]
        if all(ends):
            chains.append(_chain(graph, name, (what, ends[0]), (other, ends[1])))
    if chains:
        return Explanation(tuple(chains))
    return Explanation((), (f"{what} and {other} share no group of units.", *_equal(graph, what, other)))


class _Web:
    """All places that carry one leaf, and the operators that link them."""

    def __init__(self, graph: Graph, leaf: Axis) -> None:
        self.leaf = find(leaf)
        self.links: dict[_Place, list[tuple[_Place, Op]]] = {}
        self.makers: dict[int, Op] = {}
        holding: dict[Axis, bool] = {}

        def carries(a: Axis) -> bool:
            a = find(a)
            if a not in holding:
                holding[a] = any(x is self.leaf for x in leaves(a))
            return holding[a]

        for op in graph.ops:
            if not op.kind:
                continue
            for v in op.outputs:
                self.makers.setdefault(id(v), op)
            if any(carries(a) for v in values((op.args, op.kwargs, op.out)) for a in v.axes):
                for together in _links(op):
                    mine = [(id(v), d) for v, d in together if d < len(v.axes) and carries(v.axes[d])]
                    for a in mine:
                        self.links.setdefault(a, []).extend((b, op) for b in mine if b != a)

    def search(self, starts: Iterable[_Place]) -> dict[_Place, tuple[_Place, Op] | None]:
        """Every place that can be reached -> the place before it and the operator in between."""
        found: dict[_Place, tuple[_Place, Op] | None] = dict.fromkeys(starts)
        todo = deque(found)
        while todo:
            here = todo.popleft()
            for there, op in self.links.get(here, ()):
                if there not in found:
                    found[there] = (here, op)
                    todo.append(there)
        return found


def _links(op: Op) -> Iterator[list[tuple[Value, int]]]:
    """Sets of dimensions that this operator unifies: its rule applied to fresh axes."""
    rule = lookup(op.func)
    if rule is None:
        return
    copies: dict[int, tuple[Value, Value]] = {}

    def copied(x: Any) -> Any:
        if isinstance(x, Value):
            if id(x) not in copies:
                copies[id(x)] = (x, replace(x, axes=[fresh(n) for n in x.shape], roles={}))
            return copies[id(x)][1]
        if isinstance(x, list | tuple):
            return type(x)(*map(copied, x)) if hasattr(x, "_fields") else type(x)(map(copied, x))
        return {k: copied(v) for k, v in x.items()} if isinstance(x, dict) else x

    alone = replace(op, args=copied(op.args), kwargs=copied(op.kwargs), out=None, ties=[], sizes={})
    given = set(copies)
    alone.out = copied(op.out)
    try:
        result = rule.axes(alone)
    except Conflict:
        return
    several = isinstance(op.out, list | tuple)
    for v, axes in zip(op.out if several else [op.out], result if several else [result]):
        if isinstance(v, Value) and axes is not None and id(v) not in given:
            copies[id(v)][1].axes = list(axes)
    together: dict[Axis, list[tuple[Value, int]]] = {}
    for v, twin in copies.values():
        for d, a in enumerate(twin.axes):
            for leaf in dict.fromkeys(leaves(a)):
                if not leaf.frozen:
                    together.setdefault(leaf, []).append((v, d))
    yield from (places for places in together.values() if len(places) > 1)


def _chain(graph: Graph, group: str, start: tuple[str, list[_Named]], end: tuple[str, list[_Named]]) -> Chain:
    """The shortest chain of operators between two named sets of places that carry one group."""
    web = _Web(graph, graph.leaves[group])
    (what, here), (other, there) = start, end
    starts, ends = {_place(graph, p) for p in here}, {_place(graph, p) for p in there}
    starts, ends = starts - ends or starts, ends - starts or ends  # one of the two may be a module inside the other
    found = web.search(starts)
    g = graph.groups[group]
    reached = next((p for p in found if p in ends), None)  # `found` is ordered by distance
    if reached is None:
        return Chain(group, g.kind, g.units, what, other, (Step("", "", "they are one tensor, or a rule ties them"),))
    steps: list[tuple[Op, _Place, _Place]] = []
    place = reached
    while (back := found[place]) is not None:
        steps.append((back[1], back[0], place))
        place = back[0]
    return Chain(group, g.kind, g.units, what, other, _sentences(graph, web, reversed(steps)))


def _whole(graph: Graph, group: str) -> Chain:
    """Every operator of the shortest paths from the first member to the others, in the order of the forward."""
    g = graph.groups[group]
    web = _Web(graph, graph.leaves[group])
    members = [(m.tensor, m.dim) for m in g.members]
    first = next(((m.tensor, m.dim) for m in g.members if m.role == "out"), members[0])
    found = web.search([_place(graph, first)])
    used: dict[tuple[int, _Place], tuple[Op, _Place, _Place]] = {}
    for member in members:
        place = _place(graph, member)
        while (back := found.get(place)) is not None:
            used.setdefault((back[1].index, place), (back[1], back[0], place))
            place = back[0]
    steps = sorted(used.values(), key=lambda s: s[0].index)
    return Chain(group, g.kind, g.units, _first(first), "its other members", _sentences(graph, web, steps))


def _sentences(graph: Graph, web: _Web, steps: Iterable[tuple[Op, _Place, _Place]]) -> tuple[Step, ...]:
    """The steps as sentences, without operators that only pass units on."""
    weights = {id(v): name for name, v in reversed(list(graph.tensors.items()))}
    sentences: dict[tuple[int, str], Step] = {}
    for op, a, b in steps:
        text = _text(op, a, b, weights, web)
        if text:
            sentences.setdefault((op.index, text), Step(op.name, op.path, text))
    return tuple(sentences.values())


def _text(op: Op, a: _Place, b: _Place, weights: dict[int, str], web: _Web) -> str:
    """What one operator does with the units between place a and place b; "" if it only passes them on."""
    where = op.path or "the model"
    held = [(weights[p], d) for p, d in (a, b) if p in weights]
    if op.kind in _NORMS:
        return f"{where} normalises them"
    if op.kind in _WEIGHING:
        if not held:
            return f"{where} ({op.name}) treats each unit separately"
        roles = {v.roles.get(d, "other") for v in op.inputs for p, d in (a, b) if id(v) == p and p in weights}
        does = "writes" if roles == {"out"} else "reads" if "out" not in roles else "reads and writes"
        return f"{where} ({op.name}) {does} them"
    inputs = [v for v in op.inputs if any((id(v), d) in web.links for d in range(v.ndim))]
    if held and op.kind == "pointwise":
        return f"{op.name} in {where} applies {held[0][0]} to them"
    if len(inputs) > 1 and op.kind != "attention":
        along = {a[0], b[0]}
        others = [v for v in inputs if id(v) not in along] or [v for v in inputs if id(v) == b[0]] or inputs[1:]
        other = " and ".join(dict.fromkeys(_giver(v, weights, web) for v in others[:3]))
        return f"{op.name} in {where} " + _SAYS.get(
            op.name, "joins them, unit by unit, with what {other} gives"
        ).format(other=other)
    if op.kind in _SILENT or op.kind == "pointwise":
        return ""
    return f"{op.name} in {where} {_KIND_SAYS.get(op.kind, 'passes them on')}"


def _giver(v: Value, weights: dict[int, str], web: _Web) -> str:
    """Where a value comes from: the name of a parameter, or the module of the operator that made it."""
    if id(v) in weights:
        return weights[id(v)]
    maker = web.makers.get(id(v))
    return "a constant" if maker is None else maker.path or f"{maker.name} in the model"


def _named(graph: Graph, what: str) -> list[_Named]:
    """All (tensor, dimension) that a name stands for: of a parameter, one of its dimensions, a module or a group."""
    tensor, _, dim = what.rpartition(":")
    if tensor in graph.tensors and dim.isdigit() and int(dim) < graph.tensors[tensor].ndim:
        return [(tensor, int(dim))]
    found = [
        (name, d)
        for name, v in graph.tensors.items()
        if name == what or name.startswith(f"{what}.") or not what
        for d in range(v.ndim)
    ]
    if not found and what in graph.groups:
        found = [(m.tensor, m.dim) for m in graph.groups[what].members]
    if not found:
        modules = {name.rpartition(".")[0] for name in graph.tensors}
        near = "Names are such as " + ", ".join(list(graph.tensors)[:3]) + "."
        raise UnknownName("group, parameter or module", what, [*graph.groups, *graph.tensors, *modules], near)
    return found


def _axes_of(graph: Graph, places: list[_Named]) -> Iterator[str]:
    """One line for each dimension: its groups, or why it is frozen."""
    reasons: dict[str, list[str]] = {}
    for f in graph.frozen:
        reasons.setdefault(f.axis, []).append(f.reason)
    for name, d in places:
        groups = [n for n, leaf in graph.leaves.items() if _holds(graph, (name, d), leaf)]
        for n in groups:
            g = graph.groups[n]
            yield f"{name}:{d} holds {counted(g.units, g.kind)} of {n}"
        for reason in dict.fromkeys(reasons.get(f"{name}:{d}", ())):
            yield f"{name}:{d} {'in part ' if groups else ''}stays whole: {reason}"


def _equal(graph: Graph, *names: str) -> tuple[str, ...]:
    """A sentence for each tie that contains all the names."""
    return tuple(f"{', '.join(t)} must keep equally many units" for t in graph.ties if all(n in t for n in names))


def _holds(graph: Graph, place: _Named, leaf: Axis) -> bool:
    leaf = find(leaf)
    return any(x is leaf for x in leaves(graph.tensors[place[0]].axes[place[1]]))


def _place(graph: Graph, place: _Named) -> _Place:
    return id(graph.tensors[place[0]]), place[1]


def _first(place: _Named) -> str:
    return place[0].removesuffix(".weight") if place[0].endswith(".weight") else place[0]
