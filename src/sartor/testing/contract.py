"""The contract of an operator rule: a test for your own rules, which Sartor's own rules pass too.

from sartor.testing.contract import check_rule

def test_my_operator():
    check_rule("mylib::scale_shift", Net(), torch.randn(4, 6))
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import nn

from sartor.errors import CannotTrace, ProofFailed, SartorError
from sartor.structure import Graph, record, trace
from sartor.structure.axes import find, leaves, new_size
from sartor.structure.calls import Op, values
from sartor.structure.example import Example, call, tensors
from sartor.structure.functions import FUNCTIONS
from sartor.structure.rules import lookup
from sartor.surgery import cut, probe, prove
from sartor.testing.plans import tie_of
from sartor.torch_internals import schema
from sartor.types import Counts, Plan


class RuleBroken(SartorError, AssertionError):
    """A rule makes a claim that does not hold."""


@dataclass(frozen=True)
class RuleCheck:
    """What `check_rule` tried, and with which result."""

    groups: tuple[str, ...]  # groups that pass through the operator
    mixing: tuple[str, ...]  # those of them that this rule, or another one, marks as mixing
    plans: int
    max_relative_error: float


def check_rule(
    operator: str | type[torch.autograd.Function],
    model: nn.Module,
    example: Example,
    *,
    plans: int = 6,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> RuleCheck:
    """Cut the groups that pass through an operator by random plans; every claim of its rule must hold.

    1. The model calls the operator, it has a rule, and some group that passes through it can be cut.
    2. The shapes of all results are as predicted.
    3. The cut model equals the zero-masked original, unless the rule says `mixing`.
    4. The cut model can be trained.

    Args:
        operator: its name in the schema ("mylib::scale_shift"; "aten::" may be left out), or an autograd.Function.
        model: the smallest network in which a group that can be cut passes through the operator.
        example: inputs, of batch 2 or more.
        plans: how many random plans are tried.
        seed: of the random plans.
        tolerance: largest relative difference from the zero-masked original.

    Raises:
        RuleBroken: names the claim, the plan and what to change.
    """
    model = model.eval()
    name = _name(operator)
    found = trace(model, example)
    ops = [op for op in found.ops if schema(op.func).name.removesuffix("_") == name.removesuffix("_")]
    if not ops:
        raise RuleBroken(
            f"{name}: the forward never calls it; it calls {', '.join(sorted({o.name for o in found.ops}))}"
        )
    if lookup(ops[0].func) is None:
        raise RuleBroken(f"{name}: no rule is entered for it; import the file that registers the rule")
    graph = probe(model, found)
    through = _through(graph, [op for op in graph.ops if op.index in {o.index for o in ops}])
    if not through:
        reasons = "; ".join(dict.fromkeys(f.reason for f in graph.frozen))
        raise RuleBroken(f"{name}: no group that passes through it can be cut: {reasons}")
    worst = 0.0
    for i in range(plans):
        plan = _drawn(graph, through, random.Random(1000 * seed + i))
        worst = max(worst, _hold(name, model, example, graph, plan, tolerance))
    return RuleCheck(tuple(through), tuple(n for n in through if graph.groups[n].mixes), plans, worst)


def _hold(name: str, model: nn.Module, example: Example, graph: Graph, plan: Plan, tolerance: float) -> float:
    case = f"{name}, plan { ({n: list(k) for n, k in plan.keep.items()}) }"
    smaller = cut(model, graph, plan)
    _same_shapes(case, smaller, example, graph, plan.counts())
    try:
        error = prove(model, graph, plan, example, smaller=smaller, tolerance=tolerance).max_relative_error
    except ProofFailed as e:
        raise RuleBroken(
            f"{case}: the cut model differs from the zero-masked original ({e}). If the operator computes with "
            "several units together, its rule must call mixing(axis, why) or freeze(axis, why)"
        ) from e
    _trains(case, smaller, example)
    return error


def _same_shapes(case: str, smaller: nn.Module, example: Example, graph: Graph, counts: Counts) -> None:
    kept = graph.leaf_counts(counts)
    try:
        run = record(smaller, example)
    except CannotTrace as e:
        raise RuleBroken(f"{case}: the cut model does not run: {e}") from e
    if [op.name for op in run.ops] != [op.name for op in graph.ops]:
        return  # a rewritten forward calls other operators; the probe has compared their shapes
    for expected, actual in zip(graph.ops, run.ops):
        for v, w in zip(expected.outputs, actual.outputs):
            shape = tuple(new_size(a, kept) for a in v.axes)
            if expected.live and v.axes and shape != w.shape:
                raise RuleBroken(f"{case}: {expected.where} gives {w.shape}; the rule predicts {shape}")


def _trains(case: str, smaller: nn.Module, example: Example) -> None:
    smaller.train()
    out = [t for t in tensors(call(smaller, example)) if t.requires_grad]
    if not out:
        return
    torch.stack([t.float().square().mean() for t in out]).sum().backward()
    bad = [n for n, p in smaller.named_parameters() if p.grad is not None and p.grad.shape != p.shape]
    if bad or not any(p.grad is not None for p in smaller.parameters()):
        raise RuleBroken(f"{case}: no gradient of the right shape reaches {', '.join(bad) or 'any parameter'}")


def _name(operator: str | type[torch.autograd.Function]) -> str:
    if isinstance(operator, str):
        return operator if "::" in operator else f"aten::{operator}"
    if operator not in FUNCTIONS:
        raise RuleBroken(f"{operator.__name__}: no rule is entered for it; import the file that registers the rule")
    return str(schema(FUNCTIONS[operator]).name)


def _through(graph: Graph, ops: list[Op]) -> list[str]:
    """Groups whose units the inputs or outputs of these operators carry."""
    held = {leaf for op in ops for v in values((op.args, op.kwargs, op.out)) for a in v.axes for leaf in leaves(a)}
    return [n for n, leaf in graph.leaves.items() if find(leaf) in held]


def _drawn(graph: Graph, through: list[str], rng: random.Random) -> Plan:
    """A plan for a random choice of the groups, and of the groups tied to them."""
    chosen = rng.sample(through, rng.randint(1, len(through)))
    keep: dict[str, tuple[int, ...]] = {}
    for name in chosen:
        count = rng.randint(1, graph.groups[name].units - 1)
        for tied in tie_of(graph, name):
            if tied not in keep:
                units = graph.groups[tied].units
                keep[tied] = tuple(sorted(rng.sample(range(units), count)))
    return Plan(keep, "check_rule", graph.fingerprint)
