"""Einstein sums, recorded as one operator: one axis for each letter."""

from __future__ import annotations

from sartor.structure.axes import Axes, Axis, find, unify
from sartor.structure.calls import Op, Value
from sartor.structure.rules.registry import Terms, freeze_values, rule

_ELLIPSIS = "."  # as in torch, its dimensions get labels of their own


def labels_of(op: Op) -> tuple[list[list[str]], list[str]]:
    """One label for every dimension of every operand, and of the output."""
    equation = op.args[0].replace(" ", "").replace("...", _ELLIPSIS)
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    operands: list[Value] = list(op.args[1])
    spread = max(v.ndim - len(t) + 1 for v, t in zip(operands, terms)) if _ELLIPSIS in left else 0

    def expand(term: str, n: int) -> list[str]:
        labels: list[str] = []
        for c in term:
            labels += [f"...{i}" for i in range(spread - n, spread)] if c == _ELLIPSIS else [c]
        return labels

    inputs = [expand(t, v.ndim - len(t) + 1) for v, t in zip(operands, terms)]
    if arrow:
        return inputs, expand(right, spread)
    once = sorted(c for c in set(left) - {",", _ELLIPSIS} if left.count(c) == 1)
    return inputs, [f"...{i}" for i in range(spread)] + once


def _macs(op: Op) -> Terms:
    """Operands are contracted from the left; a step with a summed label multiplies all its labels."""
    inputs, out = labels_of(op)
    axis = {
        label: v.axes[d] for labels, v in zip(inputs, op.args[1]) for d, label in enumerate(labels) if v.shape[d] != 1
    }
    terms: Terms = []
    have = set(inputs[0])
    for i, labels in enumerate(inputs[1:], start=1):
        needed = set(out).union(*map(set, inputs[i + 1 :]))
        together = have | set(labels)
        shared = [c for c in have & set(labels) if c not in needed and c in axis]
        have = together & needed
        if shared:
            terms.append([axis[c] for c in sorted(together & (needed | set(shared))) if c in axis])
    return terms


@rule("matmul", "einsum", macs=_macs)
def einsum(op: Op) -> Axes:
    """Equal letters unify; letters not in the output are summed over. A letter that an operand has twice is frozen."""
    inputs, out = labels_of(op)
    axis: dict[str, Axis] = {}
    for labels, v in zip(inputs, op.args[1]):
        if len(set(labels)) < len(labels):
            freeze_values([v], op.reason("diagonal"))
        for d, label in enumerate(labels):
            if v.shape[d] != 1 or label not in axis:
                axis[label] = (
                    unify(axis[label], v.axes[d], op.where) if label in axis and _wide(axis[label]) else v.axes[d]
                )
            if v.name is not None:
                v.roles.setdefault(d, "out" if label in out else "in")
    return [find(axis[label]) for label in out]


def _wide(a: Axis) -> bool:
    return find(a).size != 1
