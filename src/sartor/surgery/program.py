"""A forward as data: the operators that one module calls, to be run again with other sizes.

If a forward states a size that no attribute holds (`x.view(-1, 400)`, `reshape(B, N, C)` with C from `x.shape`),
changing attributes is not enough. Then the operators recorded inside that module replace its forward, with all sizes
adapted. Parameters, submodules and names are kept; the new class is a subclass of the module's own class.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from sartor.errors import BadInput, CorruptFile
from sartor.structure.example import tensors
from sartor.structure.op_json import operator
from sartor.surgery.edits_file import ProgramFile
from sartor.torch_internals import OpOverload, children_table
from sartor.types.checked import refusal

FORMAT = 1
SPLITS = {"split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk"}


class Program:
    """The steps of a rewritten forward, which can be written as JSON.

    A step is [operator, args, kwargs, slots of its results, slots that no later step reads]. Arguments are plain
    numbers, text, None and lists, or one of {"slot": i}, {"tensor": name} (a parameter or buffer of the module),
    {"batch": k} (k times the batch size), {"modes": [in evaluation, in training]}, {"dtype" | "layout" |
    "memory_format": name}, {"device": true} (that of the first input), {"float": text} (for infinities).
    """

    def __init__(self, raw: Mapping[str, Any] | ProgramFile):
        try:
            file = raw if isinstance(raw, ProgramFile) else ProgramFile.model_validate(raw)
        except ValidationError as e:
            raise CorruptFile(str(refusal(e, "rewritten forward"))) from e
        self.raw = file.model_dump(mode="json")
        self.inputs: list[list[Any]] = self.raw["inputs"]  # shape of each tensor; {"batch": k} where it may vary
        self.same, self.plain, self.output = file.same, file.plain, file.output
        self.steps = [
            (_operator(i, name), args, kwargs, tuple(outs), tuple(drop))
            for i, (name, args, kwargs, outs, drop) in enumerate(file.steps)
        ]
        self.batch = next(
            ((i, d, x["batch"]) for i, shape in enumerate(self.inputs) for d, x in enumerate(shape) if _is(x, "batch")),
            None,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Program) and self.raw == other.raw

    def __hash__(self) -> int:
        return hash(json.dumps(self.raw, sort_keys=True))

    def names(self) -> set[str]:
        """Parameters and buffers it reads."""
        return {x["tensor"] for _, args, kwargs, *_ in self.steps for x in _refs((args, kwargs)) if "tensor" in x}

    def run(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The forward of `module`.

        Raises:
            BadInput: the arguments differ from those of the recorded call.
        """
        given = list(tensors((args, kwargs)))
        self._check(given, plain_of((args, kwargs)))
        n = 1
        if self.batch is not None:
            i, d, each = self.batch
            n = given[i].shape[d] // each
        env: dict[int, Any] = dict(enumerate(given))
        where = given[0].device if given else next(module.parameters()).device

        real = partial(_real, env, module, n, where)
        for func, a, k, outs, drop in self.steps:
            out = func(*[real(v) for v in a], **{key: real(v) for key, v in k.items()})
            if len(outs) == 1 and not isinstance(out, list | tuple):
                env[outs[0]] = out
            else:
                env.update(zip(outs, out))
            del out  # otherwise it would live through the next step
            for slot in drop:
                env.pop(slot, None)
        return _built(self.output, env)

    def _check(self, given: list[Tensor], plain: list[Any]) -> None:
        if plain != self.plain or len(given) != len(self.inputs):
            raise BadInput(
                f"rewritten forward: expected {len(self.inputs)} tensors and the other arguments {self.plain}; got "
                f"{len(given)} tensors and {plain}. It only repeats the call it was recorded from"
            )
        for i, first in enumerate(self.same):
            if given[i] is not given[first]:
                raise BadInput(
                    f"rewritten forward: expected inputs {first} and {i} to be the same tensor, as in the recorded call"
                )
        for i, (t, shape) in enumerate(zip(given, self.inputs)):
            if len(t.shape) != len(shape) or any(not _is(s, "batch") and s != n for n, s in zip(t.shape, shape)):
                expected = [f"{s['batch']} * n" if _is(s, "batch") else s for s in shape]
                raise BadInput(f"rewritten forward, input {i}: expected shape {expected}; got {list(t.shape)}")


def _operator(step: int, name: str) -> OpOverload:
    try:
        return operator(name)
    except (AttributeError, TypeError, ValueError) as e:
        raise CorruptFile(
            f"rewritten forward, step {step}: expected an operator such as 'aten::add.Tensor'; got {name!r}"
        ) from e


class Rewritten(nn.Module):
    """A module that runs a program instead of the forward of its class; see `rewrite_`."""

    program: Program

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The original forward with the present sizes."""
        return self.program.run(self, args, kwargs)


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
    new: nn.Module = object.__new__(type(kind.__name__, (Rewritten, kind), {"__module__": kind.__module__}))
    new.__dict__.update(module.__dict__)
    new.__dict__["program"] = program
    if isinstance(module, nn.MultiheadAttention):
        new.__dict__["_qkv_same_embed_dim"] = False  # the encoder layer around it must not use its fused forward
    if not path:
        return new
    parent, _, name = path.rpartition(".")
    children_table(model.get_submodule(parent))[name] = new
    return model


def plain_of(value: Any) -> list[Any]:
    """The arguments of a call as JSON, with "*" for tensors.

    Raises:
        TypeError: an argument that JSON cannot hold.

    >>> plain_of(((torch.ones(2), None), {"mask": False}))
    [['*', None], {'mask': False}]
    """
    args, kwargs = value
    return [_plain(list(args)), _plain(kwargs)]


def _plain(x: Any) -> Any:
    if isinstance(x, Tensor):
        return "*"
    if x is None or isinstance(x, bool | int | float | str):
        return x
    if isinstance(x, list | tuple):
        return [_plain(v) for v in x]
    if isinstance(x, dict):
        return {str(k): _plain(v) for k, v in x.items()}
    if isinstance(x, torch.Size):
        return list(x)
    raise TypeError(f"{type(x).__name__} in a call")


def _real(env: Mapping[int, Any], module: nn.Module, n: int, where: torch.device, x: Any) -> Any:
    """The value of an argument. Not a closure: its reference cycle would keep activations alive."""
    if isinstance(x, list):
        return [_real(env, module, n, where, v) for v in x]
    if not isinstance(x, dict):
        return x
    (kind, v), *_ = x.items()
    if kind == "slot":
        return env[v]
    if kind == "tensor":
        return _tensor(module, v)
    if kind == "batch":
        return v * n
    if kind == "modes":
        return _real(env, module, n, where, v[module.training])
    if kind == "device":
        return where
    return float(v) if kind == "float" else getattr(torch, v)


def _is(x: Any, kind: str) -> bool:
    return isinstance(x, dict) and kind in x


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
