"""From recorded calls to a graph: mark dead operators, apply the rules in order, collect the leaves that remain."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from sartor.structure.axes import Axes, Axis, Conflict, find, freeze, fresh, leaves
from sartor.structure.calls import Op, Value, frozen_axes
from sartor.structure.example import tensors
from sartor.structure.graph import Graph
from sartor.structure.kinds import kinds
from sartor.structure.reasons import sentence
from sartor.structure.recording import Recording
from sartor.structure.rules.registry import facts, freeze_all, lookup, opaque
from sartor.structure.value_reads import QUESTIONS
from sartor.structure.weight_arithmetic import pass_roles_back
from sartor.types import Frozen, Group, Member, Reason


def solve(
    rec: Recording,
    more: Callable[[], Recording | None] = lambda: None,
    branches: Callable[[], Iterable[Recording]] = tuple,
    variants: Iterable[Recording] = (),
) -> Graph:
    """Axes for every value, groups, frozen axes with reasons, ties.

    Args:
        rec: the forward in evaluation mode.
        more: records the same model's forward in training mode. Called if evaluation does not use all parameters; the
            rules are then applied to that forward as well.
        branches: records the forward with one decision turned round. Called if the decisions depend on weights, or if
            some parameters are still unused.
        variants: forwards on other inputs; one that calls the same operators in the same modules adds nothing.
    """
    for v in {id(v): v for v in rec.tensors.values()}.values():
        v.axes = [fresh(n) for n in v.shape]
    touched = _follow(rec)
    training = more() if any(v.origin == "parameter" and n not in touched for n, v in rec.tensors.items()) else None
    if training is not None:
        for name, v in training.tensors.items():
            v.axes = rec.tensors[name].axes
        touched |= _follow(training)
    different: list[Recording] = []
    for other in variants:
        if all(_calls(other) != _calls(known) for known in (rec, *different)):
            different.append(other)
            touched |= _follow_beside(rec, other)
    others: list[Recording] = []
    if not _on_meta(rec) or any(v.origin == "parameter" and n not in touched for n, v in rec.tensors.items()):
        for other in branches():
            others.append(other)
            touched |= _follow_beside(rec, other)
    for name, v in rec.tensors.items():
        if name not in touched:
            for a in v.axes:
                freeze(a, Reason("unused"))
    for v in (o for r in (rec, training, *different, *others) if r is not None for o in r.outputs):
        for a in _axes(v):
            freeze(a, Reason("output"))
    _forget_dead_mixing(rec, [r for r in (rec, training, *different, *others) if r is not None])
    pass_roles_back(rec.ops)
    graph = read_off(rec)
    return replace(
        graph,
        training=None if training is None else _beside(graph, training),
        variants=tuple(_beside(graph, other) for other in different),
        branches=tuple(_beside(graph, other) for other in others),
    )


def _forget_dead_mixing(rec: Recording, forwards: Iterable[Recording]) -> None:
    """A norm over units whose result reaches nothing does not change what the other units compute."""
    live = {(op.name, op.path) for forward in forwards for op in forward.ops if op.live}
    for v in rec.tensors.values():
        for leaf in (leaf for a in v.axes for leaf in leaves(a)):
            leaf.mix = {r: None for r in leaf.mix if not r.op or (r.op, r.module) in live}


def _calls(rec: Recording) -> list[tuple[Any, str]]:
    return [(op.func, op.path) for op in rec.ops]


def _follow_beside(rec: Recording, other: Recording) -> set[str]:
    """Apply the rules to another forward of the same model; its parameters have the same axes."""
    for name, v in other.tensors.items():
        v.axes, v.roles = rec.tensors[name].axes, rec.tensors[name].roles
    return _follow(other)


def _on_meta(rec: Recording) -> bool:
    return all(t.device.type == "meta" for t in tensors(rec.example))


def _beside(graph: Graph, other: Recording) -> Graph:
    """The graph of another forward of the same model, with the same axes."""
    parts = {"inputs": tuple(other.inputs), "outputs": tuple(other.outputs), "example": other.example}
    return replace(graph, ops=tuple(other.ops), **parts)


def _follow(rec: Recording) -> set[str]:
    """Apply the rules in order; returns the names of the parameters and buffers that were used."""
    for v in rec.inputs:
        v.axes = frozen_axes(v.shape, Reason("input"))
    _mark(rec)
    touched: set[int] = set()
    for op in rec.ops:
        if op.followed:
            touched.update(map(id, op.inputs))
            _apply(op, op.inputs)
    read = {id(v) for op in rec.ops if op.followed for v in op.inputs}
    alive = {leaf for op in rec.ops if op.live for v in op.outputs for a in v.axes for leaf in leaves(a)}
    for op in rec.ops:  # another forward of this model may return what this one drops
        if op.followed and not op.live:
            for a in (a for v in op.outputs if id(v) not in read for a in v.axes):
                if alive.isdisjoint(leaves(a)):  # units that reach an output are cut wherever they go
                    freeze(a, Reason("unused"))
    return {n for n, v in rec.tensors.items() if id(v) in touched}


def _mark(rec: Recording) -> None:
    """Mark which operators are live and which are followed.

    An operator is live if its result reaches an output, if it writes to memory, or if it gives Python a value, which
    the forward may branch on; the others are dead. A dead operator that reads parameters, or several values, still
    runs after the cut, so its sizes must fit: it is followed like a live one, and so is everything that its inputs are
    computed from.
    """
    alive = {id(v) for v in rec.outputs}
    needed: set[int] = set()
    for op in reversed(rec.ops):
        results = list(map(id, op.outputs))
        op.live = op.mutates or op.name in QUESTIONS or not alive.isdisjoint(results)
        joins = len({id(v) for v in op.inputs}) > 1 or any(v.name is not None for v in op.inputs)
        op.followed = op.live or joins or not needed.isdisjoint(results)
        if op.live:
            alive.update(map(id, op.inputs))
        if op.followed:
            needed.update(map(id, op.inputs))


def _axes(v: Value) -> Axes:
    """The axes of a value; frozen ones if no rule has set them."""
    if len(v.axes) != len(v.shape):
        v.axes = frozen_axes(v.shape, Reason("origin", detail=v.origin))
    return v.axes


def _apply(op: Op, inputs: list[Value]) -> None:
    for v in inputs:
        _axes(v)
    rule = lookup(op.func)
    apply: Callable[[Op], Any] = rule.axes if rule else opaque
    op.kind = rule.kind if rule else "unknown"
    try:
        result = apply(op)
    except Conflict as e:
        result = freeze_all(op, op.reason("conflict", str(e)))
    for out, axes in zip(_flat(op.out), result if _is_several(op) else [result]):
        if out is None or axes is None:
            continue
        if len(axes) != out.ndim:
            raise AssertionError(f"rule of {op.func}: {len(axes)} axes for shape {out.shape}")
        if not out.axes:
            out.axes = list(axes)


def _is_several(op: Op) -> bool:
    return isinstance(op.out, list | tuple)


def _flat(out: Any) -> list[Value | None]:
    return list(out) if isinstance(out, list | tuple) else [out]


def read_off(rec: Recording) -> Graph:
    """The graph that follows from the present state of the axes."""
    members: dict[Axis, list[Member]] = {}
    cuttable: set[Axis] = set()
    frozen: list[Frozen] = []
    seen: set[int] = set()
    for name, v in rec.tensors.items():
        tied = id(v) in seen
        seen.add(id(v))
        for d, a in enumerate(v.axes):
            for leaf in dict.fromkeys(leaves(a)):
                if leaf.frozen:
                    if leaf.size > 1 and v.origin == "parameter" and not tied:
                        frozen.append(Frozen(f"{name}:{d}", leaf.size, sentence(leaf.frozen)))
                elif leaf.size > 1:
                    role = v.roles.get(d, "buffer" if v.origin == "buffer" else "other")
                    if not tied:
                        members.setdefault(leaf, []).append(Member(name, d, role))
                    if v.origin == "parameter":
                        cuttable.add(leaf)
    kind_of = kinds(rec.ops)
    groups: dict[str, Group] = {}
    named: dict[str, Axis] = {}
    for leaf, places in members.items():
        if leaf not in cuttable:
            continue
        name = _name(places, groups)
        mixes = "; ".join(dict.fromkeys(map(sentence, leaf.mix))) or None
        groups[name] = Group(name, kind_of.get(leaf, "features"), leaf.size, tuple(places), mixes)
        named[name] = leaf
    ties = _ties(rec, {leaf: n for n, leaf in named.items()})
    return Graph(
        tuple(rec.ops),
        rec.tensors,
        tuple(rec.inputs),
        tuple(rec.outputs),
        groups,
        named,
        tuple(frozen),
        ties,
        _fingerprint(rec),
        rec.example,
    )


def read_again(graph: Graph) -> Graph:
    """The graph after some of its leaves were refined: its groups and frozen axes follow from the present axes."""
    rec = Recording()
    rec.ops, rec.tensors, rec.example = list(graph.ops), dict(graph.tensors), graph.example
    rec.inputs, rec.outputs = list(graph.inputs), list(graph.outputs)
    new = read_off(rec)
    return replace(graph, groups=new.groups, leaves=new.leaves, frozen=new.frozen)


def _name(places: list[Member], taken: dict[str, Group]) -> str:
    first = next((m for m in places if m.role == "out"), places[0])
    plain = first.tensor.endswith(".weight") and first.dim == 0
    base = first.tensor.removesuffix(".weight") if plain else f"{first.tensor}:{first.dim}"
    name, k = base, 1
    while name in taken:
        k += 1
        name = f"{base}#{k}"
    return name


def _ties(rec: Recording, names: dict[Axis, str]) -> tuple[tuple[str, ...], ...]:
    """Groups that must keep equal counts as pieces of a chunk, one leaf a piece; `surgery.probe` finds the others."""
    ties: list[tuple[str, ...]] = []
    for op in rec.ops:
        for parts in op.ties:
            found = list(dict.fromkeys(names[find(p)] for p in parts if find(p) in names))
            if len(found) > 1:
                ties.append(tuple(found))
    return tuple(dict.fromkeys(ties))


def _fingerprint(rec: Recording) -> str:
    lines = [f"{name}:{v.shape}" for name, v in rec.tensors.items()]
    lines += [f"{facts(op.func).name}@{op.path}" for op in rec.ops]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
