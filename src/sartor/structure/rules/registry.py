"""What is known of operators: how their axes relate, what they cost.

A rule is a function from a recorded call to the axes of its output (a list of axes for one tensor, a list of such lists
for several). It may unify and freeze axes of the inputs on the way. A `Conflict` it lets through freezes the call.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._ops import OpOverload

from sartor.errors import BadInput
from sartor.structure.axes import Axes, freeze
from sartor.structure.calls import Op, frozen_axes
from sartor.structure.functions import FUNCTIONS, FunctionOp
from sartor.types import Reason

AxesRule = Callable[[Op], Any]  # -> Axes | list[Axes | None]
Terms = list[Axes]  # each term is a product of axis sizes; their sum is the number of multiply-accumulates
CostRule = Callable[[Op], Terms]
MetaRule = Callable[..., Any]  # the operator's own arguments -> its output on meta tensors, or NotImplemented


@dataclass(frozen=True)
class Rule:
    """Everything known of one operator."""

    kind: str
    axes: AxesRule
    macs: CostRule | None = None  # conv, linear, matmul: what every convention counts
    extra: CostRule | None = None  # what thop counts besides
    scratch: CostRule | None = None  # bytes it allocates for the time it runs, beside its output
    meta: MetaRule | None = None  # quicker than PyTorch's meta kernel; see `shapes`


@dataclass(frozen=True, slots=True)
class Facts:
    """What is looked up once an overload: its rule, and what its schema says."""

    func: OpOverload
    name: str
    rule: Rule | None
    meta: MetaRule | None  # that of the rule, where it takes all arguments of this overload
    in_place: bool  # gives its first argument back
    takes_device: bool


RULES: dict[str, Rule] = {}
_FACTS: dict[int, Facts] = {}  # by id of the overload, which the facts keep alive


def rule(
    kind: str,
    names: str | type[torch.autograd.Function],
    *,
    macs: CostRule | None = None,
    extra: CostRule | None = None,
    scratch: CostRule | None = None,
    meta: MetaRule | None = None,
) -> Callable[[AxesRule], AxesRule]:
    """Enter a rule for operators, named as in their schema ("aten::conv2d"; without a namespace: aten).

    The in-place form ("aten::relu_") follows the plain one. An `autograd.Function` may stand in place of the names.
    """

    def enter(f: AxesRule) -> AxesRule:
        for full in _full(names):
            if full in RULES:
                raise BadInput(f"operator rule {full!r} is already registered")
            RULES[full] = Rule(kind, f, macs, extra, scratch, meta)
        _FACTS.clear()
        return f

    return enter


def _full(names: str | type[torch.autograd.Function]) -> list[str]:
    if isinstance(names, str):
        return [name if "::" in name else f"aten::{name}" for name in names.split()]
    op = FUNCTIONS.setdefault(names, FunctionOp(names))
    return [op._schema.name]


def lookup(func: OpOverload) -> Rule | None:
    """The rule of an operator: by name, its plain form, or as PyTorch tags it pointwise; None: nobody described it."""
    return facts(func).rule


def facts(func: OpOverload) -> Facts:
    """What is known of one overload."""
    found = _FACTS.get(id(func))
    if found is None:
        schema, rule = func._schema, _lookup(func)
        found = _FACTS[id(func)] = Facts(
            func,
            schema.name,
            rule,
            rule.meta if rule is not None and rule.meta is not None and _takes(rule.meta, func) else None,
            schema.is_mutable,
            any(a.name == "device" and a.kwarg_only for a in schema.arguments),
        )
    return found


def _takes(meta: MetaRule, func: OpOverload) -> bool:
    """Whether a meta rule takes every argument of this overload, and only its first is written to."""
    spec = func._schema.arguments
    if any(a.alias_info is not None and a.alias_info.is_write for a in spec[1:]):
        return False
    try:
        inspect.signature(meta).bind(
            *(None for a in spec if not a.kwarg_only), **{a.name: None for a in spec if a.kwarg_only}
        )
    except TypeError:
        return False
    return True


def _lookup(func: OpOverload) -> Rule | None:
    name = func._schema.name
    plain = name[:-1] if name.endswith("_") and not name.endswith("__") else name
    for n in (name, plain):
        if n in RULES:
            return RULES[n]
    if torch.Tag.pointwise in func.tags:
        return RULES["aten::where"]
    if plain != name and func.namespace == "aten" and hasattr(torch.ops.aten, plain[6:]):
        packet = getattr(torch.ops.aten, plain[6:])
        if any(torch.Tag.pointwise in getattr(packet, o).tags for o in packet.overloads()):
            return RULES["aten::where"]
    return None


def opaque(op: Op) -> Any:
    """Nobody described this operator: everything it touches stays whole."""
    return freeze_all(op, Reason("no rule", op.func._schema.name, op.path))


def freeze_all(op: Op, why: Reason | str) -> Any:
    """Freeze every axis that goes in, and give frozen axes out."""
    for v in op.inputs:
        for a in v.axes:
            freeze(a, why)
    return same_nesting(op, lambda shape: frozen_axes(shape, why))


def same_nesting(op: Op, f: Callable[[tuple[int, ...]], Axes]) -> Any:
    """Axes for the output, or for every output, from shapes."""
    if isinstance(op.out, list | tuple):
        return [f(o.shape) if hasattr(o, "shape") else None for o in op.out]
    return f(op.out.shape) if op.out is not None else None


def each_output(op: Op, axes: Axes) -> Any:
    """The same axes for every output."""
    return same_nesting(op, lambda _: list(axes))


def freeze_values(items: Iterable[Any], why: Reason | str) -> None:
    """Freeze all axes of the Values among `items`."""
    for v in items:
        for a in getattr(v, "axes", ()):
            freeze(a, why)
