"""A forward as data: the operators that one module calls, to be run again with other sizes.

If a forward states a size that no attribute holds (`x.view(-1, 400)`, `reshape(B, N, C)` with C from `x.shape`),
changing attributes is not enough. Then the operators recorded inside that module replace its forward, with all sizes
adapted. Sizes that follow from the inputs stay formulas, so that any batch and any length is taken. Parameters,
submodules and names are kept; the new class is a subclass of the module's own class.
"""

from __future__ import annotations

import copyreg
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sartor.errors import BadInput, CorruptFile
from sartor.structure.op_json import operator
from sartor.surgery.call_signature import bound, plain_value, tensors_of
from sartor.surgery.edits_file import Formula, OldProgramFile, ProgramFile
from sartor.surgery.size_formula import evaluated
from sartor.torch_internals import OpOverload, children_table
from sartor.types.checked import refusal

SPLITS = {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"}
_ARGUMENTS = {"slot", "tensor", "size", "modes", "device", "float", "dtype", "layout", "memory_format"}
Step = tuple[OpOverload, list[Any], dict[str, Any], tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True)
class Variant:
    """The steps for calls with one signature."""

    call: Mapping[str, Any]  # argument -> its value as JSON, with "*" for tensors
    inputs: list[list[Any]]  # shape of each tensor: a number, None for any, {"size": of an earlier input}
    same: list[int]  # of each tensor, the first that is the same one
    output: Any
    steps: list[Step]

    def mismatch(self, given: list[Tensor]) -> str:
        """Why these tensors are not the ones it was written for; "" if they are."""
        for i, first in enumerate(self.same):
            if given[i] is not given[first]:
                return f"expected inputs {first} and {i} to be the same tensor, as in the recorded call"
        for i, (t, shape) in enumerate(zip(given, self.inputs)):
            fits = len(t.shape) == len(shape)
            for n, s in zip(t.shape, shape):
                if isinstance(s, dict):
                    # a mask may have size 1 where the sequence has a length: operators broadcast it
                    fits = fits and (n == _size(given, s["size"]) or n == 1)
                elif s is not None:
                    fits = fits and n == s
            if not fits:
                names = ["any" if s is None else _name(s) for s in shape]
                return f"input {i}: expected shape {names}; got {list(t.shape)}"
        return ""


class Program:
    """The steps of a rewritten forward, which can be written as JSON.

    A program has one variant for every signature its module was called with: which arguments are tensors, and the
    values of the others. Arguments equal to their default do not count.

    A step is [operator, args, kwargs, slots of its results, slots that no later step reads]. Arguments are plain
    numbers, text, None and lists, or one of {"slot": i}, {"tensor": name} (a parameter or buffer of the module),
    {"size": formula} (see `size_formula`), {"modes": [in evaluation, in training]}, {"dtype" | "layout" |
    "memory_format": name}, {"device": true} (that of the first input), {"float": text} (for infinities).
    """

    def __init__(self, raw: Mapping[str, Any] | ProgramFile | OldProgramFile):
        file = _read(raw)
        self.raw = file.model_dump(mode="json")
        self.fixed: tuple[str, ...] = tuple(file.fixed)
        """What it does not take although the original may, as sentences: "takes attention_mask=None only"."""
        self.positional, self.defaults = file.positional, file.defaults
        self.variants = [
            Variant(v.call, raw["inputs"], v.same, v.output, [_step(i, step) for i, step in enumerate(v.steps)])
            for v, raw in zip(file.variants, self.raw["variants"])
        ]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(json.dumps(self.raw, sort_keys=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return Program, (self.raw,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self  # nothing in it changes

    def names(self) -> set[str]:
        """Parameters and buffers it reads."""
        steps = [step for v in self.variants for step in v.steps]
        return {x["tensor"] for _, args, kwargs, *_ in steps for x in _refs((args, kwargs)) if "tensor" in x}

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The forward of `module`.

        Raises:
            BadInput: it was not recorded with such arguments.
        """
        values = bound(self.positional, self.defaults, args, kwargs)
        plain = {name: plain_value(v) for name, v in values.items()}
        reason = ""
        for variant in self.variants:
            if variant.call == plain:
                given = tensors_of(values, list(variant.call))
                reason = variant.mismatch(given)
                if not reason:
                    return _run(variant, module, given)
        if not reason:
            known = " or ".join(dict.fromkeys(str(dict(v.call)) for v in self.variants))
            reason = f"expected the arguments {known}, where '*' is a tensor; got {plain}"
        raise BadInput(
            f"rewritten forward of {type(module).__name__}: {reason}. It repeats the calls it was recorded from; trace "
            "the original with examples of every kind of call, or leave out what needs rewriting (rewrite='free')"
        )


def _run(variant: Variant, module: nn.Module, given: list[Tensor]) -> Any:
    env: dict[int, Any] = dict(enumerate(given))
    where = given[0].device if given else next(module.parameters()).device
    real = partial(_real, env, module, where)
    for func, a, k, outs, drop in variant.steps:
        out = func(*[real(v) for v in a], **{key: real(v) for key, v in k.items()})
        if len(outs) == 1 and not isinstance(out, list | tuple):
            env[outs[0]] = out
        else:
            env.update(zip(outs, out))
        del out  # otherwise it would live through the next step
        for slot in drop:
            env.pop(slot, None)
    return _built(variant.output, env)


def _read(raw: Any) -> ProgramFile:
    try:
        if isinstance(raw, ProgramFile):
            return raw
        if isinstance(raw, OldProgramFile):
            return raw.upgraded()
        if isinstance(raw, Mapping) and raw.get("format") == 1:
            return OldProgramFile.model_validate(raw).upgraded()
        return ProgramFile.model_validate(raw)
    except ValidationError as e:
        raise CorruptFile(str(refusal(e, "rewritten forward"))) from e


def _operator(step: int, name: str) -> OpOverload:
    try:
        return operator(name)
    except (AttributeError, TypeError, ValueError) as e:
        raise CorruptFile(
            f"rewritten forward, step {step}: expected an operator such as 'aten::add.Tensor'; got {name!r}"
        ) from e


def _check_argument(step: int, x: Any) -> None:
    """Refuse a kind of value that is not known."""
    if isinstance(x, list):
        for v in x:
            _check_argument(step, v)
    elif isinstance(x, dict):
        kind = next(iter(x), None)
        if len(x) != 1 or kind not in _ARGUMENTS:
            raise CorruptFile(
                f"rewritten forward, step {step}: expected one of {', '.join(sorted(_ARGUMENTS))}; got {sorted(x)}"
            )
        if kind == "modes":
            _check_argument(step, x[kind])
        elif kind == "size":
            try:
                Formula.model_validate(x[kind])
            except ValidationError as e:
                raise CorruptFile(str(refusal(e, f"rewritten forward, step {step}, size"))) from e


def _step(i: int, step: Any) -> Step:
    name, args, kwargs, outs, drop = step
    _check_argument(i, [args, *kwargs.values()])
    return _operator(i, name), args, kwargs, tuple(outs), tuple(drop)


class Rewritten(nn.Module):
    """A module that runs a program instead of the forward of its class; see `rewrite_`."""

    program: Program

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The original forward with the present sizes."""
        return self.program.run(self, args, kwargs)

    def __reduce_ex__(self, protocol: Any) -> Any:
        reduced: Any = super().__reduce_ex__(protocol)
        make, args, *rest = reduced
        if make is copyreg.__newobj__:  # type: ignore[attr-defined]
            return _empty, (type(self).__mro__[2], *args[1:]), *rest
        return make, args, *rest


def rewritten_class(kind: type[nn.Module]) -> type[nn.Module]:
    """The subclass of a module class that runs a program; it bears the name of the class."""
    made: type[nn.Module] = _subclass(cast(Any, kind))
    return made


@cache
def _subclass(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (Rewritten, kind), names)


def _empty(kind: type[nn.Module], *args: Any) -> nn.Module:
    """A module of the rewritten class without any state: how pickle and copy begin."""
    new: nn.Module = kind.__new__(rewritten_class(kind), *args)
    return new


def rewrite_(model: nn.Module, path: str, program: Program) -> nn.Module:
    """Replace the forward of the module at `path` by the program; returns the model, a new one if path is "".

    Raises:
        BadInput: the module has no tensor of a name that the program reads.
    """
    module = model.get_submodule(path)
    own = {
        n for n, _ in [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    }
    missing = sorted(program.names() - own)
    if missing:
        raise BadInput(f"module {path!r}: a rewritten forward reads {missing[0]!r}, which it does not have")
    kind = type(module)
    new: nn.Module = object.__new__(rewritten_class(kind))
    new.__dict__.update(module.__dict__)
    new.__dict__["program"] = program
    if isinstance(module, nn.MultiheadAttention):
        new.__dict__["_qkv_same_embed_dim"] = False  # the encoder layer around it must not use its fused forward
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    children_table(model.get_submodule(parent))[name] = new
    return model


def _real(env: Mapping[int, Any], module: nn.Module, where: torch.device, x: Any) -> Any:
    """The value of an argument. Not a closure: its reference cycle would keep activations alive."""
    if isinstance(x, list):
        return [_real(env, module, where, v) for v in x]
    if not isinstance(x, dict):
        return x
    (kind, v), *_ = x.items()
    if kind == "slot":
        return env[v]
    if kind == "tensor":
        return _tensor(module, v)
    if kind == "size":
        return _size(env, v)
    if kind == "modes":
        return _real(env, module, where, v[module.training])
    if kind == "device":
        return where
    return float(v) if kind == "float" else getattr(torch, v)


def _size(tensors: Any, formula: Mapping[str, Any]) -> int:
    return evaluated(formula, lambda slot, d: tensors[slot].shape[d])


def _name(size: Any) -> Any:
    """A size in a message."""
    if not isinstance(size, dict):
        return size
    (i, d), *_ = size["size"]["of"]
    return f"dimension {d} of input {i}"


def _refs(x: Any) -> Iterator[dict[str, Any]]:
    if isinstance(x, dict):
        yield x
        for v in x.values():
            yield from _refs(v)
    elif isinstance(x, list | tuple):
        for v in x:
            yield from _refs(v)


def _tensor(module: nn.Module, name: str) -> Tensor:
    path, _, key = name.rpartition(".")
    found: Tensor = getattr(module.get_submodule(path), key)
    return found


def _built(structure: Any, env: Mapping[int, Any]) -> Any:
    if isinstance(structure, dict) and set(structure) == {"slot"}:
        return env[structure["slot"]]
    if isinstance(structure, dict) and set(structure) == {"tuple"}:
        return tuple(_built(v, env) for v in structure["tuple"])
    if isinstance(structure, dict) and set(structure) == {"dict"}:
        return {k: _built(v, env) for k, v in structure["dict"].items()}
    return [_built(v, env) for v in structure] if isinstance(structure, list) else structure
