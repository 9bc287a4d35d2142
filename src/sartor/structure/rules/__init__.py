"""Operator rules, one file per family; importing this package registers them all."""

from sartor.structure.rules import (
    attention,
    contract,
    convolution,
    einsum,
    factory,
    index,
    layout,
    norm,
    pointwise,
    reduce,
    spatial,
)
from sartor.structure.rules.registry import RULES, Rule, lookup, opaque, rule

__all__ = [
    "RULES", "Rule", "attention", "contract", "convolution", "einsum", "factory", "index", "layout", "lookup", "norm",
    "opaque", "pointwise", "reduce", "rule", "spatial",
]  # fmt: skip
