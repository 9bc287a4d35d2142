"""The operators that a program read from a file may call, and the arguments that they may get.

A file is data: it may name PyTorch's functional operators on tensors and nothing else. Permitted are the operators
that Sartor has a rule for (those of your own included: registering a rule says that you know the operator), PyTorch's
pointwise and core operators, and the parts that recorded forwards were seen to consist of. Operators that open files,
load libraries, return handles or change the storage of a tensor are in none of these sets.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from sartor.structure.op_json import KINDS, operator
from sartor.structure.rules.registry import lookup
from sartor.torch_internals import OpOverload, argument_types, schema

_PARTS = {"aten::_trilinear"}  # of composite operators, without a rule and without a tag
_NEVER = {"aten::resize_"}  # changes the storage of a tensor that others may share; it bears the tag "core"
_NAME = re.compile(r"[A-Za-z]\w*::\w+\.\w+")
_LIST = re.compile(r"List\[(.+)\]")
_OPTIONAL = re.compile(r"Optional\[(.+)\]")
_DIMENSIONS = {"int", "SymInt"}
_RESULTS = {"Tensor", "List[Tensor]"}
_ENUMS = {"ScalarType": "dtype", "Layout": "layout", "MemoryFormat": "memory_format"}
Test = Callable[[Any], bool]
_PLAIN: Mapping[str, Test] = {
    "int": lambda x: type(x) in (bool, int) or _is(x, "size"),
    "float": lambda x: type(x) in (int, float) or _is(x, "float", "size"),
    "number": lambda x: type(x) in (bool, int, float) or _is(x, "float", "size"),
    "bool": lambda x: type(x) is bool,
    "str": lambda x: type(x) is str,
    "Tensor": lambda x: type(x) in (bool, int, float) or _is(x, "slot", "tensor", "float", "size"),  # numbers as well
    "Device": lambda x: _is(x, "device"),
}


def named_operator(name: Any) -> OpOverload:
    """The operator of this name.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(name)
    try:
        found = operator(name)
    except (AttributeError, TypeError, RuntimeError) as e:
        raise ValueError(name) from e
    if not isinstance(found, OpOverload):
        raise ValueError(name)
    return found


@cache
def refusal_of(func: OpOverload) -> str:
    """Why no program may call an operator; "" if it may. Operators outside of PyTorch count as `is_foreign` says."""
    spec = schema(func)
    if spec.name in _NEVER or not (is_foreign(func) or _is_known(func)):
        return "it is not one of the operators that a recorded forward consists of"
    if any(a.is_out for a in spec.arguments):
        return "it writes to a tensor that is given to it"
    writes = [i for i, a in enumerate(spec.arguments) if a.alias_info is not None and a.alias_info.is_write]
    if writes not in ([], [0]):
        return "it writes to a tensor that is given to it"
    return ""


def is_foreign(func: OpOverload) -> bool:
    """Whether an operator comes from a library other than PyTorch, and no rule is registered for it."""
    return func.namespace != "aten" and lookup(func) is None


def _is_known(func: OpOverload) -> bool:
    return lookup(func) is not None or torch.Tag.core in func.tags or schema(func).name in _PARTS


def gives_tensors(func: OpOverload, count: int) -> bool:
    """Whether an operator returns tensors and nothing else, and may return this many."""
    kinds = [str(r.type) for r in schema(func).returns]
    return _RESULTS.issuperset(kinds) and (count <= len(kinds) or "List[Tensor]" in kinds)


def wrong_argument(func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    """The first argument that the schema of an operator does not know or take, as a message; "" if there is none.

    Args:
        func: the operator.
        args: as a program writes them, see `sartor.surgery.program.Program`.
        kwargs: the same by name.
    """
    parameters = _parameters(func)
    positional = [p for p in parameters.values() if p.positional]
    if len(args) > len(positional):
        return f"expected at most {len(positional)} positional arguments; got {len(args)}"
    given = {p.name: x for p, x in zip(positional, args)}
    for name in kwargs:
        if name not in parameters or name in given:
            return f"argument {name!r}: the operator has none of this name, or it is given twice"
    given |= kwargs
    for p in parameters.values():
        if p.name not in given:
            if p.required:
                return f"argument {p.name!r} is missing"
            continue
        x = given[p.name]
        if not all(map(p.takes, x["modes"] if _is(x, "modes") else [x])):
            return f"argument {p.name!r}: expected {p.kind}; got {_short(x)}"
    return ""


class _Parameter(NamedTuple):
    name: str
    kind: str
    takes: Test
    positional: bool
    required: bool


@cache
def _parameters(func: OpOverload) -> dict[str, _Parameter]:
    return {
        a.name: _Parameter(
            a.name, argument_types(a)[1], _test(*argument_types(a)), not a.kwarg_only, not a.has_default_value()
        )
        for a in schema(func).arguments
    }


def _test(plain: str, real: str) -> Test:
    """Whether a value in a file is of a type of an operator's schema, as a function."""
    outer, inner = _OPTIONAL.fullmatch(plain), _OPTIONAL.fullmatch(real)
    if outer is not None and inner is not None:
        test = _test(outer[1], inner[1])
        return lambda x: x is None or test(x)
    outer, inner = _LIST.fullmatch(plain), _LIST.fullmatch(real)
    if outer is not None and inner is not None:
        test, single = _test(outer[1], inner[1]), inner[1] in _DIMENSIONS  # `stride=2` stands for every dimension
        return lambda x: (single and type(x) is int) or (isinstance(x, list) and all(map(test, x)))
    if real in _ENUMS:
        kind = _ENUMS[real]
        return lambda x: _is(x, kind) and _word(x[kind]) and isinstance(getattr(torch, x[kind], None), KINDS[kind])
    return _PLAIN.get("int" if real == "SymInt" else real, lambda x: False)


def _is(x: Any, *kinds: str) -> bool:
    return isinstance(x, dict) and len(x) == 1 and next(iter(x)) in kinds


def _word(x: Any) -> bool:
    return isinstance(x, str) and x.isidentifier() and not x.startswith("_")


def _short(x: Any) -> str:
    text = repr(x)
    return text if len(text) <= 80 else f"{text[:80]}..."


__all__ = ["gives_tensors", "is_foreign", "named_operator", "refusal_of", "wrong_argument"]
