"""Find out by trial cuts on meta tensors which groups can be cut in the model's own class.

The axes say which units may be removed, but a forward with `x.view(-1, 400)` cannot run with another size. Such groups
are frozen, with the operator as the reason. If a forward derives two sizes from one number, the groups can be cut as
long as they keep equal counts: they become a tie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

import torch
from torch import Tensor, nn

from sartor.structure.axes import Axis, find, leaves
from sartor.structure.calls import Op
from sartor.structure.graph import Graph
from sartor.surgery.attributes import attributes_for
from sartor.surgery.program import Program
from sartor.surgery.rewrite import CannotRewrite, Tape, lineage, program_for
from sartor.surgery.shape_check import Mismatch, check
from sartor.types import Frozen
from sartor.wrappers import unwrapped

_SHARES = (  # two trial cuts: sizes that are equal by chance in one differ in the other
    (Fraction(1, 2), Fraction(3, 4), Fraction(5, 8)),
    (Fraction(2, 3), Fraction(1, 2), Fraction(4, 5), Fraction(3, 7)),
)
_END = (len(_SHARES), 0)


def probe(model: nn.Module, graph: Graph) -> Graph:
    """The graph without the groups that cannot be cut in this class; these are frozen, with the reason."""
    model = unwrapped(model).module
    names = {find(leaf): name for name, leaf in graph.leaves.items()}
    rank = {find(leaf): i for i, leaf in enumerate(graph.leaves.values())}
    ties = [set(t) for t in graph.ties]
    gone: dict[str, str] = {}
    writer = _Rewriter(model, graph)

    def attempt(without: set[str], tied: list[set[str]], also: str | None = None) -> _Problem | None:
        for i, shares in enumerate(_SHARES):
            found = trial(shares, without, tied, also)
            if found is not None:
                return _Problem((i, found.op), found)
        return None

    def trial(
        shares: tuple[Fraction, ...], without: set[str], tied: list[set[str]], also: str | None
    ) -> Mismatch | None:
        share = {n: shares[rank[find(leaf)] % len(shares)] for n, leaf in graph.leaves.items()}
        for t in tied:
            share.update(dict.fromkeys(t, shares[0]))
        masks = {
            find(leaf): _mask(find(leaf).size, share[n])
            for n, leaf in graph.leaves.items()
            if n not in gone and n not in without
        }
        return check(model, graph, masks, attributes_for(model, graph, masks), writer.programs(masks, also))

    problem = attempt(set(), ties)
    while problem is not None:
        suspects = _suspects(graph, problem.what, names, gone)
        if not suspects:
            suspects = [n for n in graph.leaves if n not in gone]
            if not suspects:
                break
        equal = [n for n in suspects if graph.groups[n].units == graph.groups[suspects[0]].units]
        if len(equal) > 1 and not any(set(equal) <= t for t in ties):
            after = attempt(set(), [*ties, set(equal)])
            if problem.solved_by(after):
                ties.append(set(equal))
                problem = after
                continue
        further = _written(writer, problem, graph, lambda path: attempt(set(), ties, path))
        if further is not problem:
            problem = further
            continue
        best: tuple[tuple[int, int], str, _Problem | None] | None = None
        for name in suspects[:8]:
            after = attempt({name}, ties)
            reach = _END if after is None else after.reach
            if best is None or reach > best[0]:
                best = (reach, name, after)
        assert best is not None
        if best[0] <= problem.reach:  # leaving out any single one does not help: all of them are frozen
            for name in suspects:
                gone[name] = writer.reason(problem.what)
            problem = attempt(set(), ties)
        else:
            gone[best[1]] = writer.reason(problem.what)
            problem = best[2]
    return without_groups(graph, gone, ties)


def _written(
    writer: _Rewriter, problem: _Problem, graph: Graph, attempt: Callable[[str], _Problem | None]
) -> _Problem | None:
    """The next problem after rewriting the failing module or one around it; the same problem if that does not help."""
    for path in lineage(
        graph.every_op[problem.what.op].path
    ):  # an operator outside of any module belongs to the next one
        if not writer.may(path):
            continue
        try:
            after = attempt(path)
        except CannotRewrite as e:
            writer.refused[path] = str(e)
            continue
        if problem.solved_by(after):
            writer.paths.append(path)
            return after
        writer.refused[path] = "the rewritten forward does not run either"
    return problem


@dataclass(frozen=True)
class _Problem:
    """The first operator that does not run, and how far the trials came."""

    reach: tuple[int, int]  # (trial, operator)
    what: Mismatch

    def solved_by(self, after: _Problem | None) -> bool:
        """Whether the trials came further after a change."""
        return after is None or after.reach > self.reach


class _Rewriter:
    """Modules whose forward is rewritten, and modules where that is not possible."""

    def __init__(self, model: nn.Module, graph: Graph):
        self.model, self.graph = model, graph
        self.paths: list[str] = []
        self.refused: dict[str, str] = {}
        self._tape: Tape | None = None

    def may(self, path: str) -> bool:
        """Whether rewriting this module was not tried yet."""
        return path not in self.paths and path not in self.refused

    def reason(self, problem: Mismatch) -> str:
        """Why groups that meet at this operator cannot be cut."""
        why = self.refused.get(self.graph.every_op[problem.op].path)
        text = f"the forward states its size where no attribute holds it: {problem.message}"
        return f"{text}; and {why}" if why else text

    def programs(self, masks: dict[Axis, Tensor], also: str | None) -> dict[str, Program]:
        """The rewritten forwards under these masks; of nested modules only the outer one."""
        paths = [*self.paths, *([] if also is None else [also])]
        outer = [p for p in paths if not any(q != p and (not q or p.startswith(f"{q}.")) for q in paths)]
        if outer and self._tape is None:
            self._tape = Tape.of(self.model, self.graph)
        return {p: program_for(self.graph, self._tape, p, masks) for p in outer if self._tape is not None}


def without_groups(graph: Graph, reasons: dict[str, str], ties: list[set[str]] | None = None) -> Graph:
    """The graph with some groups frozen; `reasons` are sentences by group name."""
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
    """Ties that share a group, joined to one tie."""
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
    """Groups carried by the operator that fails, or by the nearest operator that carries any."""
    ops = graph.every_op
    for i in [*range(min(problem.op, len(ops) - 1), -1, -1), *range(problem.op + 1, len(ops))]:
        found = [n for n in _groups_at(ops[i], names) if n not in gone]
        if found:
            return found
    return []


def _groups_at(op: Op, names: dict[Axis, str]) -> list[str]:
    ins = [leaf for v in op.inputs for a in v.axes for leaf in map(find, leaves(a)) if leaf in names]
    outs = [leaf for v in op.outputs for a in v.axes for leaf in map(find, leaves(a)) if leaf in names]
    new = [leaf for leaf in outs if leaf not in set(ins)]
    return [names[leaf] for leaf in dict.fromkeys(new or outs + ins)]
