"""A forward as data: the operators that one module calls, to be run again with other sizes.

If a forward states a size that no attribute holds (`x.view(-1, 400)`, `reshape(B, N, C)` with C from `x.shape`),
changing attributes is not enough. Then the operators recorded inside that module replace its forward, with all sizes
adapted. Sizes that follow from the inputs stay formulas, so that any batch and any length is taken. Parameters,
submodules and names are kept; the new class is a subclass of the module's own class.
"""

from __future__ import annotations

import copyreg
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, cast

from pydantic import ValidationError
from torch import Tensor, nn

from sartor.errors import BadInput, CorruptFile
from sartor.surgery.call_signature import bound, plain_value, tensors_of
from sartor.surgery.edits_file import OldProgramFile, ProgramFile
from sartor.surgery.program_run import check_memory, computes_values, run_steps, size_of
from sartor.surgery.program_steps import Step, checked_steps, references
from sartor.torch_internals import children_table
from sartor.types.checked import refusal

SPLITS = {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"}


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
                    fits = fits and (n == size_of(given, s["size"]) or n == 1)
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

    def __init__(self, raw: Mapping[str, Any] | ProgramFile | OldProgramFile, *, trusted: bool = True):
        """Check every step.

        Args:
            raw: what JSON holds.
            trusted: False for a file of unknown origin: operators of other libraries than PyTorch are refused unless
                a rule is registered for them, and a call that would take far more memory than the module is refused.

        Raises:
            CorruptFile: a step names an operator that no program may call, or its arguments are not those of the
                operator; names the step.
        """
        file = _read(raw)
        self.raw = file.model_dump(mode="json")
        self.trusted = trusted
        self.fixed: tuple[str, ...] = tuple(file.fixed)
        """What it does not take although the original may, as sentences: "takes attention_mask=None only"."""
        self.positional, self.defaults = file.positional, file.defaults
        self.variants = [
            Variant(v.call, raw["inputs"], v.same, v.output, checked_steps(v, trusted=trusted))
            for v, raw in zip(file.variants, self.raw["variants"])
        ]
        self._sizes: set[Any] = set()  # of inputs for which the memory of a call was checked

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(json.dumps(self.raw, sort_keys=True))

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(Program, trusted=self.trusted), (self.raw,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self  # nothing in it changes

    def names(self) -> set[str]:
        """Parameters and buffers it reads."""
        steps = [step for v in self.variants for step in v.steps]
        return {x["tensor"] for _, args, kwargs, *_ in steps for x in references((args, kwargs)) if "tensor" in x}

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
                    if not self.trusted:
                        self._check_memory(variant, module, given)
                    return _built(variant.output, run_steps(variant.steps, module, given))
        if not reason:
            known = " or ".join(dict.fromkeys(str(dict(v.call)) for v in self.variants))
            reason = f"expected the arguments {known}, where '*' is a tensor; got {plain}"
        raise BadInput(
            f"rewritten forward of {type(module).__name__}: {reason}. It repeats the calls it was recorded from; trace "
            "the original with examples of every kind of call, or leave out what needs rewriting (rewrite='free')"
        )

    def _check_memory(self, variant: Variant, module: nn.Module, given: list[Tensor]) -> None:
        """Refuse a call that takes far more memory than module and inputs; computed once for each size of inputs."""
        if not computes_values(given):
            return
        key = (id(variant), type(module).__name__, *((tuple(t.shape), t.dtype) for t in given))
        if key not in self._sizes:
            check_memory(variant.steps, module, given)
            self._sizes.add(key)


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


def _name(size: Any) -> Any:
    """A size in a message."""
    if not isinstance(size, dict):
        return size
    (i, d), *_ = size["size"]["of"]
    return f"dimension {d} of input {i}"


def _built(structure: Any, env: Mapping[int, Any]) -> Any:
    if isinstance(structure, dict) and set(structure) == {"slot"}:
        return env[structure["slot"]]
    if isinstance(structure, dict) and set(structure) == {"tuple"}:
        return tuple(_built(v, env) for v in structure["tuple"])
    if isinstance(structure, dict) and set(structure) == {"dict"}:
        return {k: _built(v, env) for k, v in structure["dict"].items()}
    return [_built(v, env) for v in structure] if isinstance(structure, list) else structure
