"""Divides a network into segments: one operator that multiplies, with the cheap operators that follow it.

Runtimes fuse a normalisation or an activation into the convolution before it, so they have one latency together. Every
operator that counts MACs begins a segment; any other joins the segment that made the latest of its inputs. So each
operator is in exactly one segment, and a segment depends on earlier ones only.

The text of a segment identifies it: its operators as JSON, with a letter for every size that a cut may change. Equal
texts are timed once, in whatever network they occur.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from sartor.structure.axes import Axis, find, leaves, new_size
from sartor.structure.calls import Op, Value, dim, values
from sartor.structure.graph import Graph
from sartor.structure.graph_cache import per_graph
from sartor.structure.op_json import encoded, operator_name
from sartor.structure.rules import lookup
from sartor.torch_internals import schema
from sartor.types import Counts

_FROM_OUTPUT = {"view", "expand", "factory"}
_COPIES = {"repeat", "tile", "repeat_interleave", "as_strided"}
_SIZES_BY_NAME = {"normalized_shape", "groups", "num_groups", "hidden_size"}

Point = tuple[int, ...]  # sizes of a segment's letters, in order


@dataclass(frozen=True)
class Kind:
    """A segment without its place in a network: what a timing belongs to.

    `text` is JSON: {"tensors": [[shape, dtype, origin], ...], "steps": [[operator, args, kwargs, results], ...],
    "given": [tensors that come from outside], "left": [tensors that others read]}. A size is a number, a letter, or
    ["*" or "+", sizes]. In arguments, {"size": ...} is a size and {"slot": i} a tensor.
    """

    text: str
    letters: int
    label: str  # readable: "conv2d 3x3 + batch_norm + relu"

    @cached_property
    def key(self) -> str:
        """A short name, the same on every machine."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The parsed text."""
        spec: dict[str, Any] = json.loads(self.text)
        return spec


@dataclass(frozen=True)
class Segment:
    """A kind at its place in one network."""

    kind: Kind
    place: str  # path of the module whose operator multiplies
    atoms: tuple[Axis, ...]  # one per letter
    groups: tuple[str, ...]  # groups whose units its sizes depend on
    given: tuple[
        int, ...
    ]  # for each outside tensor, the index of the segment that makes it; -1: an input of the network
    given_slots: tuple[int, ...]  # index of each outside tensor among the `left` tensors of that segment
    ops: tuple[int, ...]

    def point(self, kept: Mapping[Axis, int]) -> Point:
        """Sizes of the letters, for kept units by leaf."""
        return tuple(new_size(a, kept) for a in self.atoms)


@per_graph
def segments(graph: Graph) -> tuple[Segment, ...]:
    """The segments of a network in order; computed once a graph."""
    return tuple(_divided(graph))


def points(graph: Graph, counts: Counts) -> list[Point]:
    """The point of every segment once `counts[group]` units stay."""
    kept = graph.leaf_counts(counts)
    return [s.point(kept) for s in segments(graph)]


def _divided(graph: Graph) -> Iterator[Segment]:
    owner: dict[int, int] = {}  # id of a Value -> its segment
    parts: list[list[Op]] = []
    for op in graph.ops:
        if not op.live or not op.outputs:
            continue
        rule = lookup(op.func)
        before = [owner[id(v)] for v in op.inputs if id(v) in owner]
        if (rule is not None and rule.macs is not None) or not before:
            parts.append([])
            mine = len(parts) - 1
        else:
            mine = max(before)
        parts[mine].append(op)
        owner.update({id(v): mine for v in op.outputs})
    last = {id(v) for v in graph.outputs}
    read_by: dict[int, set[int]] = {}
    for i, ops in enumerate(parts):
        for op in ops:
            for v in op.inputs:
                read_by.setdefault(id(v), set()).add(i)
    made = [list({id(v): v for op in ops for v in op.outputs}.values()) for ops in parts]
    left = [[v for v in row if id(v) in last or read_by.get(id(v), set()) - {i}] for i, row in enumerate(made)]
    slot = {id(v): k for row in left for k, v in enumerate(row)}
    named = {find(a): n for n, a in graph.leaves.items()}
    for i, ops in enumerate(parts):
        writer = _Writer(ops, left[i])
        kind = writer.kind()
        groups = dict.fromkeys(named[leaf] for a in writer.atoms for leaf in leaves(a) if leaf in named)
        given = writer.given
        yield Segment(
            kind, _place(ops), tuple(writer.atoms), tuple(groups), tuple(owner.get(id(v), -1) for v in given),
            tuple(slot.get(id(v), -1) for v in given), tuple(op.index for op in ops),
        )  # fmt: skip


def _place(ops: Sequence[Op]) -> str:
    return ops[0].path


class _Writer:
    """Writes one segment as text."""

    def __init__(self, ops: Sequence[Op], left: Sequence[Value]):
        self.ops, self.left = ops, left
        self.slots: dict[int, int] = {}
        self.rows: list[list[Any]] = []
        self.given: list[Value] = []
        self.atoms: list[Axis] = []
        self._whole = self._atomic()

    def kind(self) -> Kind:
        """The kind; tensors from outside are numbered first, then those of the operators in order."""
        made: set[int] = set()
        for op in self.ops:
            for v in op.inputs:
                if id(v) not in made and id(v) not in self.slots:
                    outside = v.origin in ("op", "input")
                    self._enter(v, "given" if outside else v.origin if v.origin in ("parameter", "buffer") else "held")
                    if outside:
                        self.given.append(v)
            made |= {id(v) for v in op.outputs}  # an in-place operator returns its input
        steps = []
        for op in self.ops:
            args, kwargs = self._arguments(op)
            for v in op.outputs:
                if id(v) not in self.slots:
                    self._enter(v, "made")
            steps.append([operator_name(op.func), args, kwargs, [self.slots[id(v)] for v in op.outputs]])
        spec = {
            "tensors": self.rows, "steps": steps, "given": [self.slots[id(v)] for v in self.given],
            "left": [self.slots[id(v)] for v in self.left],
        }  # fmt: skip
        return Kind(json.dumps(spec, separators=(",", ":")), len(self.atoms), _label(self.ops))

    def _enter(self, v: Value, origin: str) -> None:
        self.slots[id(v)] = len(self.rows)
        self.rows.append([self._shape(v), str(v.dtype).removeprefix("torch."), origin])

    def _shape(self, v: Value) -> list[Any]:
        return [self._size(a) for a in v.axes] if v.axes else list(v.shape)

    def _atomic(self) -> set[Axis]:
        """Axes of several leaves whose leaves occur nowhere else in this segment: one letter stands for the whole."""
        axes = {find(a) for op in self.ops for v in (*op.inputs, *op.outputs) for a in v.axes}
        axes |= {find(a) for op in self.ops for x in op.sizes.values() for a in (x if isinstance(x, list) else [x])}
        axes = {a for a in axes if not a.frozen}
        inside = {a: set(leaves(a)) for a in axes}
        whole = {a for a in axes if a.kind is not None and not any(inside[a] & inside[b] for b in axes if b is not a)}
        return whole

    def _size(self, a: Axis) -> Any:
        a = find(a)
        if a.frozen:
            return a.size
        if a.kind is None or a in self._whole:
            if a not in self.atoms:
                self.atoms.append(a)
            return _letter(self.atoms.index(a))
        return ["*" if a.kind == "p" else "+", *(self._size(k) for k in a.kids)]

    def _arguments(self, op: Op) -> tuple[list[Any], dict[str, Any]]:
        args = [encoded(x, value=self._value) for x in op.args]
        kwargs = {k: encoded(x, value=self._value) for k, x in op.kwargs.items()}

        def put(name: str, size: Any) -> None:
            for i, spec in enumerate(schema(op.func).arguments):
                if spec.name == name:
                    if i < len(args):
                        args[i] = size
                    elif name in kwargs:
                        kwargs[name] = size

        for name, axes in op.sizes.items():
            if name in _SIZES_BY_NAME:
                put(name, [self._sized(a) for a in axes] if isinstance(axes, list) else self._sized(axes))
        out = op.outputs[0] if op.outputs else None
        if op.kind in _FROM_OUTPUT and op.name not in _COPIES and out is not None and out.axes:
            for i, x in enumerate(op.args):
                if isinstance(x, list | tuple) and x and all(type(n) is int for n in x):
                    first = dim(op.arg("dim", 0), op.args[0].ndim) if op.name == "unflatten" else 0
                    axes = out.axes[first : first + len(x)]
                    if len(axes) == len(x):
                        args[i] = [n if n == -1 else self._sized(a) for n, a in zip(x, axes)]
        elif op.kind == "split" and op.name != "unbind":
            d = dim(op.arg("dim", 0), op.args[0].ndim)
            args[1] = {"split": [self._size(v.axes[d]) for v in op.outputs]}
        elif op.kind == "slice" and out is not None and out.axes and op.args[0].axes:
            d = dim(op.arg("dim", 0), op.args[0].ndim)
            if not find(op.args[0].axes[d]).frozen:
                args.append({"narrow": [self._size(op.args[0].axes[d]), self._size(out.axes[d]), d]})
        elif op.kind == "pad" and out is not None:
            sides = [
                [self._size(op.args[0].axes[v]), self._size(out.axes[v])]
                for v in (out.ndim - 1 - i for i in range(len(op.args[1]) // 2))
            ]
            args[1] = {"pad": [list(op.args[1]), sides]}
        return args, kwargs

    def _sized(self, a: Axis) -> Any:
        size = self._size(a)
        return size if isinstance(size, int) else {"size": size}

    def _value(self, x: Any) -> Any:
        if isinstance(x, Value):
            return {"slot": self.slots[id(x)]}
        return {"odd": type(x).__name__}


def _letter(i: int) -> str:
    return "abcdefghijklmnopqrstuvwxyz"[i] if i < 26 else f"z{i}"


def _label(ops: Sequence[Op]) -> str:
    """Names of the operators in order, without views; a convolution with its kernel and stride."""
    words: list[str] = []
    for op in ops:
        if op.kind in ("view", "move", "identity", "expand") or op.name in ("select", "unbind", "slice"):
            continue
        word = op.name
        tensors = [v for v in values(op.args) if v.name is not None]
        if op.kind == "conv" and tensors:
            word += " " + "x".join(map(str, tensors[0].shape[2:]))
            groups, stride = op.arg("groups", 1), op.arg("stride")
            step = stride[0] if isinstance(stride, list | tuple) and stride else stride
            word += f" /{step}" if isinstance(step, int) and step > 1 else ""
            word += " depthwise" if groups > 1 and tensors[0].shape[1] == 1 else " grouped" if groups > 1 else ""
        words.append(word)
    return " + ".join(words) or ops[0].name
