"""From recorded calls to a program: the operators of one module with the sizes after a cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

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
from sartor.torch_internals import OpOverload, schema

_NOT_SIZES = {"repeat", "tile", "repeat_interleave", "as_strided"}  # their lists hold numbers of copies, or strides
_FLAGS = {"batch_norm": "training", "dropout": "train", "instance_norm": "use_input_stats"}


class CannotRewrite(SartorError, ValueError):
    """The forward of a module cannot be repeated from its operators; the message says why."""


@dataclass
class Call:
    """One call of a module inside a recorded forward."""

    start: int
    stop: int = -1
    inputs: list[Value] = field(default_factory=list)
    plain: Any = None
    output: Any = None
    unsupported: str = ""  # the type of an output that JSON cannot hold


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
        """Record the forward on meta tensors, at one and at two times the batch size.

        Raises:
            CannotRewrite: the control flow depends on values, or on the batch size.
        """
        example = graph.example
        if any(t.device.type != "meta" for t in tensors(example)):
            raise CannotRewrite("its control flow depends on tensor values")
        n = batch_of(example)
        try:
            once, calls = _recorded(model, graph, example)
            twice, again = _recorded(model, graph, with_batch(example, 2 * n))
        except Exception as e:
            raise CannotRewrite(f"its forward cannot be recorded for another batch size: {e}") from e
        if [op.func for op in once.ops] != [op.func for op in graph.ops]:
            raise CannotRewrite("its forward calls other operators each time")
        return cls(once, twice, calls, again, n)


def _recorded(model: nn.Module, graph: Graph, example: Any) -> tuple[Recording, dict[str, list[Call]]]:
    meta_model = clone(model, empty_like_on_meta).eval()
    rec = Recording.opened(meta_model, example)
    found: dict[str, list[Call]] = {}
    handles = []
    alive: list[Any] = []  # keeps the ids of these tensors from being reused

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
            call.stop, call.output, call.unsupported = len(rec.ops), map_tensors(rec.value, out), _unsupported(out)
            alive.append(out)

        return hook

    for name, module in meta_model.named_modules():
        handles.append(module.register_forward_pre_hook(enter(name), with_kwargs=True))
        handles.append(module.register_forward_hook(leave(name), with_kwargs=True))
    questions = iter([op for op in graph.ops if op.name in QUESTIONS])

    def instead(func: OpOverload, args: Any, kwargs: Any) -> Any:
        if short_name(func) not in QUESTIONS:
            return NotImplemented
        return repeated(
            next(questions, graph.ops[0]), func
        )  # with another batch size the operator may have another index

    args, kwargs = as_args(example)
    try:
        with watching(meta_model, rec.see, meta=True, instead=instead, same=rec.same):
            meta_model(*args, **kwargs)
    finally:
        for h in handles:
            h.remove()
    rec._seen.clear()
    return rec, found


def _unsupported(x: Any) -> str:
    """The first container that is no plain tuple, list or dict."""
    if isinstance(x, Mapping | list | tuple):
        inside = x.values() if isinstance(x, Mapping) else x
        return (
            type(x).__name__
            if type(x) not in (tuple, list, dict)
            else next(filter(None, map(_unsupported, inside)), "")
        )
    return "" if x is None or isinstance(x, Tensor | bool | int | float | str) else type(x).__name__


def program_for(graph: Graph, tape: Tape, path: str, masks: Mapping[Axis, Tensor]) -> Program:
    """The forward of the module at `path` after a cut by `masks`.

    Raises:
        CannotRewrite: its calls differ, it reads tensors of other modules, or a size cannot be derived.
    """
    calls, again = tape.calls.get(path, []), tape.again.get(path, [])
    if not calls or len(calls) != len(again):
        raise CannotRewrite(f"module {path!r} is called {len(calls)} times, {len(again)} times for a larger batch")
    first, *others = [_Writer(graph, tape, path, masks, *pair).program() for pair in zip(calls, again)]
    if any(o != first for o in others):
        raise CannotRewrite(f"module {path!r} is called {len(calls)} times, and the calls differ")
    return first


class _Writer:
    def __init__(self, graph: Graph, tape: Tape, path: str, masks: Mapping[Axis, Tensor], call: Call, other: Call):
        self.graph, self.tape, self.path, self.masks = graph, tape, path, masks
        self.kept = {a: int(m.sum()) for a, m in masks.items()}
        self.call, self.other = call, other
        if self.call.unsupported:
            raise CannotRewrite(f"module {path!r} returns {self.call.unsupported}")
        funcs = [[op.func for op in ops] for ops in (self._ops(call, tape.once), self._ops(other, tape.twice))]
        if funcs[0] != funcs[1]:
            raise CannotRewrite(f"module {path!r} calls other operators for another batch size")
        if self.call.plain is None or self.call.plain != self.other.plain:
            raise CannotRewrite(f"module {path!r} has an argument that JSON cannot hold")
        self.slots: dict[int, int] = {}  # id of a recorded Value -> slot

    @staticmethod
    def _ops(call: Call, recording: Recording) -> list[Op]:
        return recording.ops[call.start : call.stop]

    def program(self) -> Program:
        """The whole program."""
        for i, v in enumerate(self.call.inputs):
            self.slots.setdefault(id(v), i)
        same = [self.slots[id(v)] for v in self.call.inputs]
        free = len(same)  # the next slot
        shapes = [self._shape(a, b) for a, b in zip(self.call.inputs, self.other.inputs)]
        steps: list[list[Any]] = []
        for a, b in zip(self._ops(self.call, self.tape.once), self._ops(self.other, self.tape.twice)):
            if a.name == "as_strided" and a.mutates and tuple(a.args[1]) == a.args[0].shape:
                self.slots[id(a.out)] = self.slots[id(a.args[0])]  # only changes the memory format
                continue
            name, args, kwargs = self._call(self.graph.ops[a.index], a, b)
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

    def _call(self, solved: Op, a: Op, b: Op) -> tuple[str, list[Any], dict[str, Any]]:
        """Operator, args and kwargs of a step, with the sizes after the cut."""
        if isinstance(a.func, FunctionOp):
            raise CannotRewrite(
                f"module {self.path!r} calls {a.func!r}, which a file cannot name; make it a torch.library operator"
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
        encoded_args = [self._encode(x, y) for x, y in zip(args, twice_args, strict=True)]
        encoded_kwargs = {k: self._encode(x, twice_kwargs[k]) for k, x in kwargs.items()}
        for i, spec in enumerate(schema(a.func).arguments):
            if flag == spec.name and i < len(encoded_args):
                encoded_args[i] = {"modes": [encoded_args[i], True]}
        if a.name == "scaled_dot_product_attention" and encoded_kwargs.get("scale") is None:
            encoded_kwargs["scale"] = a.args[0].shape[-1] ** -0.5
        return name, encoded_args, encoded_kwargs

    def _changes(self, op: Op, once: Op, twice: Op) -> list[tuple[int | str, Any, Any]]:
        """(place of an argument, its value, its value at twice the batch size) for arguments that the cut changes."""
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
        """A list of sizes after the cut, at both batch sizes; None if the list does not hold sizes."""
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
        """Position or keyword of an argument that the call passes; None if it passes none."""
        for i, spec in enumerate(schema(op.func).arguments):
            if spec.name == name:
                return i if i < len(op.args) else name if name in op.kwargs else None
        return None

    def _encode(self, x: Any, y: Any) -> Any:
        """One argument from the two recordings: the same in both, or a multiple of the batch size."""
        if isinstance(x, list | tuple) and isinstance(y, list | tuple) and len(x) == len(y):
            return [self._encode(p, q) for p, q in zip(x, y)]
        if type(x) is int and type(y) is int and x != y:
            if y == 2 * x and x % self.tape.batch == 0:
                return {"batch": x // self.tape.batch}
            raise CannotRewrite(f"module {self.path!r}: a size changes from {x} to {y} as the batch size doubles")
        return encoded(x, value=self._value)

    def _value(self, x: Any) -> Any:
        if isinstance(x, Value):
            if id(x) in self.slots:
                return {"slot": self.slots[id(x)]}
            front = f"{self.path}." if self.path else ""
            if x.name is not None and x.name.startswith(front):
                return {"tensor": x.name.removeprefix(front)}
            raise CannotRewrite(f"module {self.path!r} reads {x.name or x.origin}, which belongs to another module")
        raise CannotRewrite(f"module {self.path!r}: {type(x).__name__} among the arguments of an operator")

    def _shape(self, a: Value, b: Value) -> list[Any]:
        solved = self._solved(a)
        shape: list[Any] = []
        for d, (x, y) in enumerate(zip(a.shape, b.shape, strict=True)):
            if x != y:
                shape.append(self._encode(x, y))
            else:
                shape.append(x if solved is None or not solved.axes else new_size(solved.axes[d], self.kept))
        return shape

    def _solved(self, v: Value) -> Value | None:
        """The Value of the solved graph that corresponds to a recorded one."""
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
            place = self._value(x)
            if "slot" not in place:
                raise CannotRewrite(f"module {self.path!r} returns one of its own tensors")
            return place
        if type(x) is tuple:
            return {"tuple": [self._structure(v) for v in x]}
        if type(x) is list:
            return [self._structure(v) for v in x]
        if type(x) is dict:
            return {"dict": {str(k): self._structure(v) for k, v in x.items()}}
        if x is None or isinstance(x, bool | int | float | str):
            return x
        raise CannotRewrite(f"module {self.path!r} returns {type(x).__name__}")

    def _drop(self, steps: list[list[Any]], output: Any) -> None:
        """Free results after the last step that reads them."""
        last: dict[int, int] = {}
        for i, (_, args, kwargs, outs, _) in enumerate(steps):
            for slot in [*outs, *_slots((args, kwargs))]:
                last[slot] = i
        output_slots = set(_slots(output))
        for slot, i in last.items():
            if slot not in output_slots:
                steps[i][4].append(slot)


def _slots(x: Any) -> list[int]:
    if isinstance(x, dict):
        return [x["slot"]] if "slot" in x else [s for v in x.values() for s in _slots(v)]
    return [s for v in x for s in _slots(v)] if isinstance(x, list | tuple) else []
