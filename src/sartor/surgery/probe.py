"""Which groups can be cut in this class, found by trying on meta tensors.

The axes say what may go; a forward that writes `x.view(-1, 400)` still cannot follow. Such groups are frozen, with the
operator as the reason. Where a forward derives two sizes from one number, the groups may go on as long as they keep
equal counts: they become a tie.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from sartor.structure.axes import Axis, find, leaves
from sartor.structure.calls import Op
from sartor.structure.graph import Graph
from sartor.surgery.attributes import attributes_for
from sartor.surgery.check import Mismatch, check
from sartor.types import Frozen

_SHARES = (Fraction(1, 2), Fraction(3, 4), Fraction(5, 8))


def probe(model: nn.Module, graph: Graph) -> Graph:
    """The graph without the groups that surgery could not realise in this class; they are frozen, with the reason."""
    names = {find(leaf): name for name, leaf in graph.leaves.items()}
    rank = {find(leaf): i for i, leaf in enumerate(graph.leaves.values())}
    ties = [set(t) for t in graph.ties]
    gone: dict[str, str] = {}

    def attempt(without: set[str], tied: list[set[str]]) -> Mismatch | None:
        share = {n: _SHARES[rank[find(leaf)] % len(_SHARES)] for n, leaf in graph.leaves.items()}
        for t in tied:
            share.update(dict.fromkeys(t, Fraction(1, 2)))
        masks = {
            find(leaf): _mask(find(leaf).size, share[n])
            for n, leaf in graph.leaves.items()
            if n not in gone and n not in without
        }
        return check(model, graph, masks, attributes_for(model, graph, masks))

    problem = attempt(set(), ties)
    while problem is not None:
        suspects = _suspects(graph, problem, names, gone)
        if not suspects:
            suspects = [n for n in graph.leaves if n not in gone]
            if not suspects:
                break
        best: tuple[int, str, Mismatch | None] | None = None
        equal = [n for n in suspects if graph.groups[n].units == graph.groups[suspects[0]].units]
        if len(equal) > 1 and not any(set(equal) <= t for t in ties):
            after = attempt(set(), [*ties, set(equal)])
            if after is None or after.op > problem.op:
                ties.append(set(equal))
                problem = after
                continue
        for name in suspects[:8]:
            after = attempt({name}, ties)
            reach = len(graph.ops) + 1 if after is None else after.op
            if best is None or reach > best[0]:
                best = (reach, name, after)
        assert best is not None
        if best[0] <= problem.op:  # none alone gets further: all of them go
            for name in suspects:
                gone[name] = f"the forward states its size where no attribute holds it: {problem.message}"
            problem = attempt(set(), ties)
        else:
            gone[best[1]] = f"the forward states its size where no attribute holds it: {problem.message}"
            problem = best[2]
    return without_groups(graph, gone, ties)


def without_groups(graph: Graph, reasons: dict[str, str], ties: list[set[str]] | None = None) -> Graph:
    """The graph with some groups no longer cuttable; reasons by group name."""
    kept = {n: g for n, g in graph.groups.items() if n not in reasons}
    frozen = list(graph.frozen)
    for name, reason in reasons.items():
        frozen += [Frozen(f"{m.tensor}:{m.dim}", graph.groups[name].units, reason) for m in graph.groups[name].members]
    left = [tuple(n for n in graph.groups if n in t and n in kept) for t in (ties if ties is not None else graph.ties)]
    return replace(
        graph,
        groups=kept,
        leaves={n: a for n, a in graph.leaves.items() if n in kept},
        frozen=tuple(frozen),
        ties=tuple(dict.fromkeys(_joined([t for t in left if len(t) > 1]))),
    )


def _joined(ties: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Ties that share a group are one tie."""
    out: list[tuple[str, ...]] = []
    for t in ties:
        for other in [o for o in out if set(o) & set(t)]:
            out.remove(other)
            t = tuple(dict.fromkeys(other + t))
        out.append(t)
    return out


def _mask(size: int, share: Fraction) -> Tensor:
    kept = min(size - 1, max(1, round(size * share)))
    order = torch.randperm(size, generator=torch.Generator().manual_seed(size))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[order[:kept]] = True
    return mask


def _suspects(graph: Graph, problem: Mismatch, names: dict[Axis, str], gone: dict[str, str]) -> list[str]:
    """Groups whose sizes meet at the operator that fails, those in its output first; else at the nearest one before."""
    for i in [*range(min(problem.op, len(graph.ops) - 1), -1, -1), *range(problem.op + 1, len(graph.ops))]:
        found = [n for n in _groups_at(graph.ops[i], names) if n not in gone]
        if found:
            return found
    return []


def _groups_at(op: Op, names: dict[Axis, str]) -> list[str]:
    ins = [leaf for v in op.inputs for a in v.axes for leaf in map(find, leaves(a)) if leaf in names]
    outs = [leaf for v in op.outputs for a in v.axes for leaf in map(find, leaves(a)) if leaf in names]
    new = [leaf for leaf in outs if leaf not in set(ins)]
    return [names[leaf] for leaf in dict.fromkeys(new or outs + ins)]
