"""From recorded calls to a program: the operators of one module with the sizes after a cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sartor.errors import CorruptFile
from sartor.structure.axes import Axis
from sartor.structure.calls import Op, Value, dim, values
from sartor.structure.constants import moved, pads
from sartor.structure.functions import FunctionOp
from sartor.structure.masks import Masks
from sartor.structure.op_json import encoded, operator_name
from sartor.surgery.edits_file import PROGRAM_FORMAT
from sartor.surgery.program import SPLITS, Program
from sartor.surgery.size_formula import SizeTable
from sartor.surgery.tape import Call, CannotRewrite, Take, Tape, Use
from sartor.torch_internals import schema

_NOT_SIZES = {"repeat", "tile", "repeat_interleave", "as_strided"}  # their lists hold numbers of copies, or strides
_FLAGS = {"batch_norm": "training", "dropout": "train", "instance_norm": "use_input_stats"}


@dataclass(frozen=True)
class _Setting:
    """A take of a tape under the masks of a cut."""

    take: Take
    masks: Masks

    def shape(self, v: Value) -> tuple[int, ...]:
        """The shape of a value after the cut."""
        return tuple(map(self.masks.size, v.axes)) if v.axes else v.shape


class Rewriting:
    """Programs for the modules of a model under one cut.

    Args:
        tape: of the model.
        masks: of the leaves of the traced graph that are cut.
    """

    def __init__(self, tape: Tape, masks: Mapping[Axis, Tensor]):
        self.tape, self._masks = tape, Masks.of(masks)
        self._settings: dict[int, _Setting] = {}  # by id of a take

    def program(self, path: str) -> Program:
        """The forward of the module at `path` after the cut.

        Raises:
            CannotRewrite: two calls that look alike differ, it reads tensors of other modules, or a size cannot be
                derived.
        """
        variants: list[dict[str, Any]] = []
        forward = self.tape.forwards[path]
        fixed = {f"takes {name}={default!r} only": None for name, default in self.tape.unseen(path).items()}
        uses = list(self.tape.uses(path))
        known = [use.calls[0].signature for use in uses]
        for use in uses:
            variant = _Writer([self._setting(take) for take in use.takes], path, use.calls).variant()
            fixed |= dict.fromkeys(_fixed_sizes(use, path, variant, known))
            if variant in variants:
                continue
            if any(_overlap(variant, v) for v in variants):
                raise CannotRewrite(f"module {path!r} is called several times, and calls that look alike differ")
            variants.append(variant)
        if not variants:
            raise CannotRewrite(f"module {path!r} is not called")
        takes = {"positional": list(forward.positional), "defaults": dict(forward.defaults)}
        try:
            return Program({"format": PROGRAM_FORMAT, **takes, "variants": variants, "fixed": list(fixed)})
        except CorruptFile as e:  # no file may hold such a step, so the network could not be loaded
            raise CannotRewrite(f"module {path!r}: {e}") from e

    def _setting(self, take: Take) -> _Setting:
        if id(take) not in self._settings:
            self._settings[id(take)] = _Setting(take, take.masks(self.tape.tensors, self._masks))
        return self._settings[id(take)]


def _overlap(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a call could match both variants."""
    if one["call"] != other["call"]:
        return False
    return all(
        len(a) == len(b) and not any(type(x) is type(y) is int and x != y for x, y in zip(a, b))
        for a, b in zip(one["inputs"], other["inputs"], strict=True)
    )


def _fixed_sizes(use: Use, path: str, variant: Mapping[str, Any], known: Sequence[Any]) -> list[str]:
    """Input sizes that the model takes and a variant does not: for those, the module calls other operators."""
    call = use.calls[0]
    funcs = use.takes[0].funcs(call)
    for ops, calls in use.elsewhere:
        alike = [c for c in calls.get(path, ()) if c.signature == call.signature]
        if alike and not any([op.func for op in ops[c.start : c.stop]] == funcs for c in alike):
            return ["takes input sizes for which it calls the same operators as for the example only"]
        if alike and not any(_matches(variant["inputs"], call.inputs, c.inputs) for c in alike):
            shapes = ", ".join(str([x if type(x) is int else "any" for x in shape]) for shape in variant["inputs"])
            return [f"takes inputs of the shapes {shapes} only"]
        if any(c.signature not in known for c in calls.get(path, ())):
            return ["takes the arguments of the example only, and the model passes others for other input sizes"]
    return []


def _matches(pattern: Sequence[Sequence[Any]], usual: Sequence[Value], inputs: Sequence[Value]) -> bool:
    """Whether inputs differ from the usual ones in free dimensions only, before the cut."""
    return all(
        len(u.shape) == len(v.shape) and all(a == b or type(p) is not int for p, a, b in zip(ps, u.shape, v.shape))
        for ps, u, v in zip(pattern, usual, inputs)
    )


class _Writer:
    """Writes one call as a variant of a program, from the same call at every input size."""

    def __init__(self, settings: Sequence[_Setting], path: str, calls: Sequence[Call]):
        self.settings, self.path, self.calls = settings, path, calls
        first = calls[0]
        if first.unsupported:
            raise CannotRewrite(f"module {path!r} returns {first.unsupported}")
        if first.signature is None or any(c.signature != first.signature for c in calls):
            raise CannotRewrite(f"module {path!r} has an argument that JSON cannot hold")
        if any(len(c.inputs) != len(first.inputs) for c in calls):
            raise CannotRewrite(f"module {path!r} is given more tensors at other input sizes")
        self.slots: dict[int, int] = {}  # id of a recorded Value of the first take -> slot
        self.sizes = SizeTable()

    def variant(self) -> dict[str, Any]:
        """The whole variant."""
        first = self.calls[0]
        for i, v in enumerate(first.inputs):
            self.slots.setdefault(id(v), i)
        same = [self.slots[id(v)] for v in first.inputs]
        inputs = [self._input(i, [c.inputs[i] for c in self.calls]) for i in range(len(same))]
        steps: list[list[Any]] = []
        free = len(same)  # the next slot
        for ops in zip(*(s.take.ops(c) for s, c in zip(self.settings, self.calls)), strict=True):
            a: Op = ops[0]
            if any(op.func is not a.func for op in ops):
                raise CannotRewrite(f"module {self.path!r} calls other operators at other input sizes")
            if a.name == "as_strided" and a.mutates and tuple(a.args[1]) == a.args[0].shape:
                self.slots[id(a.out)] = self.slots[id(a.args[0])]  # only changes the memory format
                continue
            for each in zip(*(op.inputs for op in ops), strict=True):
                if self._is_constant(each[0]):
                    self.slots[id(each[0])], free = free, free + 1
                    steps.append(self._constant(each))
            name, args, kwargs = self._step(ops)
            outs = []
            for each in zip(*(values(op.out) for op in ops)):
                if id(each[0]) not in self.slots:
                    self.slots[id(each[0])], free = free, free + 1
                    self._enter(each, self.slots[id(each[0])])
                outs.append(self.slots[id(each[0])])
            steps.append([name, args, kwargs, outs, []])
        output = self._structure(first.output)
        _drop(steps, output)
        return {"call": first.signature, "inputs": inputs, "same": same, "steps": steps, "output": output}

    def _is_constant(self, v: Value) -> bool:
        """Whether it is a tensor of one number that the forward makes without an operator, as `torch.tensor(8)`."""
        return id(v) not in self.slots and v.name is None and v.number is not None and not v.shape

    def _constant(self, each: Sequence[Value]) -> list[Any]:
        """The step that makes a constant tensor; one that follows from a width keeps the original's value."""
        number, dtype = each[0].number, each[0].dtype
        if any(v.number != number for v in each):
            raise CannotRewrite(f"module {self.path!r}: a constant tensor changes with the input sizes")
        made = {"dtype": encoded(dtype, value=self._value), "device": {"device": True}}
        return ["aten::full.default", [[], encoded(number, value=self._value)], made, [self.slots[id(each[0])]], []]

    def _enter(self, each: Sequence[Value], slot: int, *, is_input: bool = False) -> None:
        shapes = [s.shape(v) for s, v in zip(self.settings, each)]
        for d, sizes in enumerate(zip(*shapes)):
            self.sizes.add(sizes, (slot, d), is_input=is_input)

    def _input(self, i: int, each: Sequence[Value]) -> list[Any]:
        """The shape that input i must have: numbers, None where any size will do, sizes of inputs before."""
        shapes = [s.shape(v) for s, v in zip(self.settings, each)]
        if len({len(s) for s in shapes}) > 1:
            raise CannotRewrite(f"module {self.path!r}: input {i} has more dimensions at other input sizes")
        pattern: list[Any] = []
        for d, sizes in enumerate(zip(*shapes)):
            before = self.sizes.input_with(sizes)
            pattern.append(
                sizes[0] if len(set(sizes)) == 1 else None if before is None else {"size": {"of": [list(before)]}}
            )
            self.sizes.add(sizes, (i, d), is_input=True)
        return pattern

    def _step(self, ops: Sequence[Op]) -> tuple[str, list[Any], dict[str, Any]]:
        """Operator, args and kwargs of a step, with the sizes after the cut."""
        a = ops[0]
        if isinstance(a.func, FunctionOp):
            raise CannotRewrite(
                f"module {self.path!r} calls {a.func!r}, which a file cannot name; make it a torch.library operator"
            )
        name = operator_name(a.func)
        split = a.name in SPLITS and bool(a.outputs)
        if split:
            name = "aten::split_with_sizes.default"
        calls = [_split(op, s) if split else _resized(op, s) for op, s in zip(ops, self.settings)]
        args = [self._encode(each) for each in zip(*(c[0] for c in calls), strict=True)]
        kwargs = {k: self._encode([c[1][k] for c in calls]) for k in calls[0][1]}
        flag = _FLAGS.get(a.name)
        for i, spec in enumerate(schema(a.func).arguments):
            if flag == spec.name and i < len(args):
                args[i] = {"modes": [args[i], True]}
        if a.name == "scaled_dot_product_attention" and kwargs.get("scale") is None:
            widths = {op.args[0].shape[-1] for op in ops}
            if len(widths) > 1:
                raise CannotRewrite(f"module {self.path!r}: the scale of attention depends on an input size")
            kwargs["scale"] = widths.pop() ** -0.5
        return name, args, kwargs

    def _encode(self, each: Sequence[Any]) -> Any:
        """One argument from all recordings: the same in all, or a formula of sizes."""
        x = each[0]
        if isinstance(x, list | tuple) and all(isinstance(y, list | tuple) and len(y) == len(x) for y in each):
            return [self._encode(parts) for parts in zip(*each)]
        if isinstance(x, Value):
            return self._value(x)
        if all(type(y) is type(x) and y == x for y in each):
            return encoded(x, value=self._value)
        if all(type(y) is int for y in each):
            formula = self.sizes.formula(tuple(each))
            if formula is not None:
                return {"size": formula}
        raise CannotRewrite(
            f"module {self.path!r}: an argument changes from {x} to {each[1]} with the input sizes, and no size of a "
            "tensor explains it"
        )

    def _value(self, x: Any) -> Any:
        if isinstance(x, Value):
            if id(x) in self.slots:
                return {"slot": self.slots[id(x)]}
            front = f"{self.path}." if self.path else ""
            if x.name is not None and x.name.startswith(front):
                return {"tensor": x.name.removeprefix(front)}
            raise CannotRewrite(f"module {self.path!r} reads {x.name or x.origin}, which belongs to another module")
        raise CannotRewrite(f"module {self.path!r}: {type(x).__name__} among the arguments of an operator")

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


def _split(op: Op, setting: _Setting) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of `split_with_sizes` for an operator that splits."""
    d = dim(op.arg("dim", 0), op.args[0].ndim)
    return [op.args[0], [setting.shape(o)[d] for o in op.outputs], d], {}


def _resized(op: Op, setting: _Setting) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of an operator with the sizes after the cut."""
    args, kwargs = list(op.args), dict(op.kwargs)
    if op.followed:
        for place, new in _changes(op, setting.masks):
            if isinstance(place, int):
                args[place] = new
            else:
                kwargs[place] = new
    return args, kwargs


def _changes(op: Op, masks: Masks) -> list[tuple[int | str, Any]]:
    """(place of an argument, its value) for the arguments that a cut may change."""
    found: list[tuple[int | str, Any]] = []
    for name, axes in op.sizes.items():
        place = _place(op, name)
        if place is not None:
            found.append((place, list(map(masks.size, axes)) if isinstance(axes, list) else masks.size(axes)))
    if op.kind in ("view", "expand", "factory") and op.name not in _NOT_SIZES and isinstance(op.out, Value):
        for i, x in enumerate(op.args):
            if isinstance(x, list | tuple) and x and all(type(n) is int for n in x):
                sizes = _sizes(op, list(x), masks)
                if sizes is not None:
                    found.append((i, sizes))
    elif op.kind == "slice":
        x = op.args[0]
        mask = masks.mask(x.axes[dim(op.arg("dim", 0), x.ndim)])
        if bool(mask.all()):
            return found
        start, length = op.arg("start"), op.arg("length")
        for name in ("start", "end"):
            place, old = _place(op, name), op.arg(name)
            if place is not None and isinstance(old, int) and abs(old) <= len(mask):
                found.append((place, moved(old, mask)))
        place = _place(op, "length")
        if place is not None and isinstance(length, int) and isinstance(start, int):
            found.append((place, int(mask[start : start + length].sum())))
    elif op.kind == "pad":
        found.append((1, [n for _, n in pads(op, masks)]))
    return found


def _sizes(op: Op, old: list[int], masks: Masks) -> list[int] | None:
    """A list of sizes after the cut; None if the list does not hold sizes."""
    axes = op.out.axes
    if len(old) != len(axes):
        if op.name != "unflatten":
            return None
        first = dim(op.arg("dim", 0), op.args[0].ndim)
        axes = axes[first : first + len(old)]
    return [n if n == -1 else masks.size(a) for n, a in zip(old, axes)]


def _place(op: Op, name: str) -> int | str | None:
    """Position or keyword of an argument that the call passes; None if it passes none."""
    for i, spec in enumerate(schema(op.func).arguments):
        if spec.name == name:
            return i if i < len(op.args) else name if name in op.kwargs else None
    return None


def _drop(steps: list[list[Any]], output: Any) -> None:
    """Free results after the last step that reads them or their sizes."""
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
        if "slot" in x:
            return [x["slot"]]
        if "size" in x:
            return [slot for slot, _ in [*x["size"]["of"], *x["size"].get("over", ())]]
        return [s for v in x.values() for s in _slots(v)]
    return [s for v in x for s in _slots(v)] if isinstance(x, list | tuple) else []
