"""From recorded calls to a program: the operators of one module with the sizes a cut leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch._ops import OpOverload

from sartor.errors import SartorError
from sartor.structure.axes import Axis, keep_mask, new_size
from sartor.structure.calls import Op, Value, dim, short_name, values
from sartor.structure.constants import moved, pads
from sartor.structure.example import as_args, batch_of, map_tensors, tensors, with_batch
from sartor.structure.functions import FunctionOp
from sartor.structure.graph import Graph
from sartor.structure.model_copy import clone, empty_like_on_meta
from sartor.structure.op_json import encoded, operator_name
from sartor.structure.operator_watch import watching
from sartor.structure.recording import Recording
from sartor.structure.value_reads import QUESTIONS, repeated
from sartor.surgery.program import FORMAT, SPLITS, Program, plain_of

_NOT_SIZES = {"repeat", "tile", "repeat_interleave", "as_strided"}  # their lists are counts of copies, or strides
_FLAGS = {"batch_norm": "training", "dropout": "train", "instance_norm": "use_input_stats"}


class CannotRewrite(SartorError, ValueError):
    """A module's forward cannot be repeated from its operators; says why."""


@dataclass
class Call:
    """One call of a module inside a recorded forward."""

    start: int
    stop: int = -1
    inputs: list[Value] = field(default_factory=list)
    plain: Any = None
    output: Any = None
    odd: str = ""  # the type of an output that JSON cannot say


@dataclass(frozen=True)
class Tape:
    """A forward recorded at two batch sizes, with every call of every module."""

    once: Recording
    twice: Recording
    calls: Mapping[str, list[Call]]
    again: Mapping[str, list[Call]]
    batch: int

    @classmethod
    def of(cls, model: nn.Module, graph: Graph) -> Tape:
        """Record; on meta only.

        Raises:
            CannotRewrite: the forward looks at values, or takes another path for another batch size.
        """
        example = graph.example
        if any(t.device.type != "meta" for t in tensors(example)):
            raise CannotRewrite("its forward looks at values")
        n = batch_of(example)
        try:
            once, calls = _recorded(model, graph, example)
            twice, again = _recorded(model, graph, with_batch(example, 2 * n))
        except Exception as e:
            raise CannotRewrite(f"its forward cannot be recorded for another batch size: {e}") from e
        if [op.func for op in once.ops] != [op.func for op in graph.ops]:
            raise CannotRewrite("its forward takes another path each time")
        return cls(once, twice, calls, again, n)


def _recorded(model: nn.Module, graph: Graph, example: Any) -> tuple[Recording, dict[str, list[Call]]]:
    shadow = clone(model, empty_like_on_meta).eval()
    rec = Recording.opened(shadow, example)
    found: dict[str, list[Call]] = {}
    handles = []
    alive: list[Any] = []  # identities must not be given to new tensors

    def enter(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            call = Call(len(rec.ops), inputs=[rec.value(t) for t in tensors((args, kwargs))])
            try:
                call.plain = plain_of((args, kwargs))
            except TypeError:
                call.plain = None
            alive.append((args, kwargs))
            found.setdefault(name, []).append(call)

        return hook

    def leave(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
            call = next(c for c in reversed(found[name]) if c.stop < 0)
            call.stop, call.output, call.odd = len(rec.ops), map_tensors(rec.value, out), _odd(out)
            alive.append(out)

        return hook

    for name, module in shadow.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(leave(name), with_kwargs=True))
    questions = iter([op for op in graph.ops if op.name in QUESTIONS])

    def instead(func: OpOverload, args: Any, kwargs: Any) -> Any:
        if short_name(func) not in QUESTIONS:
            return NotImplemented
        return repeated(next(questions, graph.ops[0]), func)  # another batch may come to it at another place

    args, kwargs = as_args(example)
    try:
        with watching(shadow, rec.see, meta=True, instead=instead, same=rec.same):
            shadow(*args, **kwargs)
    finally:
        for h in handles:
            h.remove()
    rec._seen.clear()
    return rec, found


def _odd(x: Any) -> str:
    """The first container that is no plain tuple, list or dict."""
    if isinstance(x, Mapping | list | tuple):
        inside = x.values() if isinstance(x, Mapping) else x
        return type(x).__name__ if type(x) not in (tuple, list, dict) else next(filter(None, map(_odd, inside)), "")
    return "" if x is None or isinstance(x, Tensor | bool | int | float | str) else type(x).__name__


def lineage(path: str) -> list[str]:
    """A module and those it lies in, the model itself last.

    >>> lineage("a.b")
    ['a.b', 'a', '']
    """
    found = [path]
    while path:
        path = path.rpartition(".")[0]
        found.append(path)
    return found


def program_for(graph: Graph, tape: Tape, path: str, masks: Mapping[Axis, Tensor]) -> Program:
    """The forward of the module at `path` once the masks are applied.

    Raises:
        CannotRewrite: its calls differ, it reads what is not its own, or says sizes that cannot be read.
    """
    calls, again = tape.calls.get(path, []), tape.again.get(path, [])
    if not calls or len(calls) != len(again):
        raise CannotRewrite(f"module {path!r} is called {len(calls)} times, {len(again)} times for a larger batch")
    first, *others = [_Writer(graph, tape, path, masks, *pair).program() for pair in zip(calls, again)]
    if any(o != first for o in others):
        raise CannotRewrite(f"module {path!r} is called {len(calls)} times, not always alike")
    return first


class _Writer:
    def __init__(self, graph: Graph, tape: Tape, path: str, masks: Mapping[Axis, Tensor], call: Call, other: Call):
        self.graph, self.tape, self.path, self.masks = graph, tape, path, masks
        self.kept = {a: int(m.sum()) for a, m in masks.items()}
        self.call, self.other = call, other
        if self.call.odd:
            raise CannotRewrite(f"module {path!r} gives back {self.call.odd}")
        funcs = [[op.func for op in ops] for ops in (self._ops(call, tape.once), self._ops(other, tape.twice))]
        if funcs[0] != funcs[1]:
            raise CannotRewrite(f"module {path!r} takes another path for another batch size")
        if self.call.plain is None or self.call.plain != self.other.plain:
            raise CannotRewrite(f"module {path!r} is given something that cannot be written down")
        self.slots: dict[int, int] = {}  # id of a recorded Value -> slot

    @staticmethod
    def _ops(call: Call, recording: Recording) -> list[Op]:
        return recording.ops[call.start : call.stop]

    def program(self) -> Program:
        """All of it."""
        for i, v in enumerate(self.call.inputs):
            self.slots.setdefault(id(v), i)
        same = [self.slots[id(v)] for v in self.call.inputs]
        free = len(same)  # the next slot
        shapes = [self._shape(a, b) for a, b in zip(self.call.inputs, self.other.inputs)]
        steps: list[list[Any]] = []
        for a, b in zip(self._ops(self.call, self.tape.once), self._ops(self.other, self.tape.twice)):
            if a.name == "as_strided" and a.mutates and tuple(a.args[1]) == a.args[0].shape:
                self.slots[id(a.out)] = self.slots[id(a.args[0])]  # another memory format, the same values
                continue
            name, args, kwargs = self._said(self.graph.ops[a.index], a, b)
            outs = []
            for v in values(a.out):
                if id(v) not in self.slots:
                    self.slots[id(v)], free = free, free + 1
                outs.append(self.slots[id(v)])
            steps.append([name, args, kwargs, outs, []])
        output = self._structure(self.call.output)
        self._drop(steps, output)
        given = {"inputs": shapes, "same": same, "plain": self.call.plain}
        return Program({"format": FORMAT, **given, "steps": steps, "output": output})

    def _said(self, solved: Op, a: Op, b: Op) -> tuple[str, list[Any], dict[str, Any]]:
        """Operator, args, kwargs of a step: what changes with the cut, then with the batch, then as recorded."""
        if isinstance(a.func, FunctionOp):
            raise CannotRewrite(
                f"module {self.path!r} calls {a.func!r}, which no file can name; make it a torch.library op"
            )
        name = operator_name(a.func)
        args, kwargs = list(a.args), dict(a.kwargs)
        twice_args, twice_kwargs = list(b.args), dict(b.kwargs)
        if a.name in SPLITS and solved.outputs:
            d = dim(solved.arg("dim", 0), solved.args[0].ndim)
            name, kwargs, twice_kwargs = "aten::split_with_sizes.default", {}, {}
            args = [a.args[0], [o.shape[d] for o in a.outputs], d]
            twice_args = [b.args[0], [o.shape[d] for o in b.outputs], d]
            if a.args[0].shape[d] == b.args[0].shape[d]:
                args[1] = twice_args[1] = [new_size(o.axes[d], self.kept) for o in solved.outputs]
        elif solved.live:
            for place, now, doubled in self._changes(solved, a, b):
                for store, new in ((args, now), (twice_args, doubled)) if isinstance(place, int) else (
                    (kwargs, now), (twice_kwargs, doubled)
                ):  # fmt: skip
                    store[place] = new  # type: ignore[index,call-overload]
        flag = _FLAGS.get(a.name)
        said_args = [self._encode(x, y) for x, y in zip(args, twice_args, strict=True)]
        said_kwargs = {k: self._encode(x, twice_kwargs[k]) for k, x in kwargs.items()}
        for i, spec in enumerate(a.func._schema.arguments):
            if flag == spec.name and i < len(said_args):
                said_args[i] = {"modes": [said_args[i], True]}
        if a.name == "scaled_dot_product_attention" and said_kwargs.get("scale") is None:
            said_kwargs["scale"] = a.args[0].shape[-1] ** -0.5
        return name, said_args, said_kwargs

    def _changes(self, op: Op, once: Op, twice: Op) -> list[tuple[int | str, Any, Any]]:
        """(place of an argument, its value, its value at twice the batch) where the cut changes what is said."""
        found: list[tuple[int | str, Any, Any]] = []
        for name, axes in op.sizes.items():
            place = self._place(op, name)
            if place is not None:
                several = isinstance(axes, list)
                new = [new_size(x, self.kept) for x in axes] if several else new_size(axes, self.kept)  # type: ignore[union-attr,arg-type]
                found.append((place, new, new))
        if op.kind in ("view", "expand", "factory") and op.name not in _NOT_SIZES and isinstance(op.out, Value):
            for i, x in enumerate(op.args):
                if isinstance(x, list | tuple) and x and all(type(n) is int for n in x):
                    sizes = self._sizes(op, (once.out, twice.out), list(x), list(twice.args[i]))
                    if sizes is not None:
                        found.append((i, *sizes))
        elif op.kind == "slice":
            x = op.args[0]
            mask = keep_mask(x.axes[dim(op.arg("dim", 0), x.ndim)], self.masks)
            start, length = op.arg("start"), op.arg("length")
            for name in ("start", "end"):
                place, old = self._place(op, name), op.arg(name)
                if place is not None and isinstance(old, int) and abs(old) <= len(mask) and not bool(mask.all()):
                    found.append((place, moved(old, mask), moved(old, mask)))
            place = self._place(op, "length")
            if place is not None and isinstance(length, int) and isinstance(start, int) and not bool(mask.all()):
                left = int(mask[start : start + length].sum())
                found.append((place, left, left))
        elif op.kind == "pad":
            new = [n for _, n in pads(op, self.masks)]
            found.append((1, new, new))
        return found

    def _sizes(
        self, op: Op, outs: tuple[Value, Value], once: list[int], twice: list[int]
    ) -> tuple[list[int], list[int]] | None:
        """A list of sizes as the cut leaves it, at both batch sizes; None: it is something else."""
        (a, b), axes, first = outs, op.out.axes, 0
        if len(once) != len(axes):
            if op.name != "unflatten":
                return None
            first = dim(op.arg("dim", 0), op.args[0].ndim)
            axes = axes[first : first + len(once)]
        new = [new_size(x, self.kept) for x in axes]
        grows = [b.shape[d] // a.shape[d] if a.shape[d] else 1 for d in range(first, first + len(once))]
        return (
            [n if n == -1 else s for n, s in zip(once, new)],
            [n if n == -1 else s * g for n, s, g in zip(twice, new, grows)],
        )

    def _place(self, op: Op, name: str) -> int | str | None:
        """Where an argument stands that was given."""
        for i, spec in enumerate(op.func._schema.arguments):
            if spec.name == name:
                return i if i < len(op.args) else name if name in op.kwargs else None
        return None

    def _encode(self, x: Any, y: Any) -> Any:
        """One argument from the two recordings: equal, or growing with the batch."""
        if isinstance(x, list | tuple) and isinstance(y, list | tuple) and len(x) == len(y):
            return [self._encode(p, q) for p, q in zip(x, y)]
        if type(x) is int and type(y) is int and x != y:
            if y == 2 * x and x % self.tape.batch == 0:
                return {"batch": x // self.tape.batch}
            raise CannotRewrite(f"module {self.path!r}: a size goes from {x} to {y} as the batch doubles")
        return encoded(x, value=self._value)

    def _value(self, x: Any) -> Any:
        if isinstance(x, Value):
            if id(x) in self.slots:
                return {"slot": self.slots[id(x)]}
            front = f"{self.path}." if self.path else ""
            if x.name is not None and x.name.startswith(front):
                return {"tensor": x.name.removeprefix(front)}
            raise CannotRewrite(f"module {self.path!r} reads {x.name or x.origin}, which is not its own")
        raise CannotRewrite(f"module {self.path!r}: {type(x).__name__} among the arguments of an operator")

    def _shape(self, a: Value, b: Value) -> list[Any]:
        solved = self._solved(a)
        said: list[Any] = []
        for d, (x, y) in enumerate(zip(a.shape, b.shape, strict=True)):
            if x != y:
                said.append(self._encode(x, y))
            else:
                said.append(x if solved is None or not solved.axes else new_size(solved.axes[d], self.kept))
        return said

    def _solved(self, v: Value) -> Value | None:
        """The Value of the solved graph that a recorded one is."""
        if v.name is not None:
            return self.graph.tensors[v.name]
        for mine, theirs in zip(self.tape.once.inputs, self.graph.inputs):
            if mine is v:
                return theirs
        for op, solved in zip(self.tape.once.ops, self.graph.ops):
            for mine, theirs in zip(values(op.out), values(solved.out)):
                if mine is v:
                    return theirs
        return None

    def _structure(self, x: Any) -> Any:
        if isinstance(x, Value):
            said = self._value(x)
            if "slot" not in said:
                raise CannotRewrite(f"module {self.path!r} gives back one of its own tensors")
            return said
        if type(x) is tuple:
            return {"tuple": [self._structure(v) for v in x]}
        if type(x) is list:
            return [self._structure(v) for v in x]
        if type(x) is dict:
            return {"dict": {str(k): self._structure(v) for k, v in x.items()}}
        if x is None or isinstance(x, bool | int | float | str):
            return x
        raise CannotRewrite(f"module {self.path!r} gives back {type(x).__name__}")

    def _drop(self, steps: list[list[Any]], output: Any) -> None:
        """Let go of results after their last reader."""
        last: dict[int, int] = {}
        for i, (_, args, kwargs, outs, _) in enumerate(steps):
            for slot in [*outs, *_slots((args, kwargs))]:
                last[slot] = i
        wanted = set(_slots(output))
        for slot, i in last.items():
            if slot not in wanted:
                steps[i][4].append(slot)


def _slots(x: Any) -> list[int]:
    if isinstance(x, dict):
        return [x["slot"]] if "slot" in x else [s for v in x.values() for s in _slots(v)]
    return [s for v in x for s in _slots(v)] if isinstance(x, list | tuple) else []
