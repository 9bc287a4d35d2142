"""The registry of operator rules: how the axes of an operator relate, and what it costs.

A rule is a function from a recorded call to the axes of its output: a list of axes for one tensor, a list of such lists
for several. It may also unify and freeze axes of the inputs. If it raises `Conflict`, all axes of the call are frozen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from sartor.errors import BadInput
from sartor.structure.axes import Axes, freeze
from sartor.structure.calls import Op, frozen_axes
from sartor.structure.functions import FUNCTIONS, FunctionOp
from sartor.torch_internals import OpOverload, schema
from sartor.types import Reason

AxesRule = Callable[[Op], Any]  # -> Axes | list[Axes | None]
Terms = list[Axes]  # each term is a product of axis sizes; their sum is the number of multiply-accumulates
CostRule = Callable[[Op], Terms]
MetaRule = Callable[..., Any]  # the operator's own arguments -> its output on meta tensors, or NotImplemented


@dataclass(frozen=True)
class Rule:
    """The rule of one operator."""

    kind: str
    axes: AxesRule
    macs: CostRule | None = None  # conv, linear, matmul: what every convention counts
    extra: CostRule | None = None  # what thop counts besides
    scratch: CostRule | None = None  # bytes that the operator allocates while it runs, besides its output
    meta: MetaRule | None = None  # faster than PyTorch's meta kernel; see `shapes`


@dataclass(frozen=True, slots=True)
class Facts:
    """What is looked up once for each overload: its rule, and facts from its schema."""

    func: OpOverload
    name: str
    rule: Rule | None
    meta: MetaRule | None  # of the rule, if it takes all arguments of this overload
    in_place: bool  # returns its first argument
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
    """Register a rule for operators, named as in their schema ("aten::conv2d"; without a namespace: aten).

    The in-place form ("aten::relu_") uses the rule of the plain form. An `autograd.Function` may be given instead of
    names.
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
    return [schema(op).name]


def lookup(func: OpOverload) -> Rule | None:
    """The rule of an operator, by its name, its plain form or PyTorch's tag "pointwise"; None: it has no rule."""
    return facts(func).rule


def facts(func: OpOverload) -> Facts:
    """The facts of one overload."""
    found = _FACTS.get(id(func))
    if found is None:
        spec, rule = schema(func), _lookup(func)
        found = _FACTS[id(func)] = Facts(
            func,
            spec.name,
            rule,
            rule.meta if rule is not None and rule.meta is not None and _takes(rule.meta, func) else None,
            spec.is_mutable,
            any(a.name == "device" and a.kwarg_only for a in spec.arguments),
        )
    return found


def _takes(meta: MetaRule, func: OpOverload) -> bool:
    """Whether a meta rule takes every argument of this overload, and the overload writes to its first one at most."""
    spec = schema(func).arguments
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
    name = schema(func).name
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
    """The rule for operators without a rule: all axes of inputs and outputs are frozen."""
    return freeze_all(op, Reason("no rule", schema(op.func).name, op.path))


def freeze_all(op: Op, why: Reason | str) -> Any:
    """Freeze every axis of the inputs; the axes of the output are frozen too."""
    for v in op.inputs:
        for a in v.axes:
            freeze(a, why)
    return same_nesting(op, lambda shape: frozen_axes(shape, why))


def same_nesting(op: Op, f: Callable[[tuple[int, ...]], Axes]) -> Any:
    """The axes f(shape) for the output, or for each of several outputs."""
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
