"""Cut a network in its own class. A forward that states sizes no attribute holds is rewritten."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from torch import Tensor, nn

from sartor.borrow import uncollected
from sartor.errors import CannotCut, NothingToDo
from sartor.structure.axes import Axis
from sartor.structure.calls import Op
from sartor.structure.fibres import Rows
from sartor.structure.graph import Graph, Resolved
from sartor.structure.masks import Masks
from sartor.surgery.attributes import Attributes, attributes_for
from sartor.surgery.blocks import Blocks, lineage
from sartor.surgery.edits import Edits, apply_edits
from sartor.surgery.program import Program
from sartor.surgery.rewrite import Rewriting
from sartor.surgery.shape_check import Checked, ShapeCheck
from sartor.surgery.tape import CannotRewrite, Tape
from sartor.types import Plan
from sartor.wrappers import unwrapped


@uncollected()
def edits_for(model: nn.Module, graph: Graph, plan: Plan | Resolved) -> Edits:
    """Slices, attribute values and rewritten forwards that realise a plan, checked on meta tensors.

    Raises:
        NothingToDo: the plan keeps every unit.
        CannotCut: an operator would not run with the new sizes.
        BadInput: the plan is not for this graph.
    """
    model = unwrapped(model).module
    resolved = graph.resolve(plan)
    if not resolved.masks:
        raise NothingToDo("the plan keeps every unit of every group")
    attributes = attributes_for(model, graph, resolved.masks)
    (problem, numbers), programs = realised(model, graph, resolved.masks, attributes)
    if problem:
        raise CannotCut(
            f"{problem.message}; the forward states a size that no attribute holds. "
            "`probe(model, graph)` freezes such groups; holding the size in an attribute frees them"
        )
    tuples: dict[int, tuple[int, ...]] = {}  # tensors that are sliced alike share their indices

    def plain(index: Tensor | Rows) -> tuple[int, ...] | Rows:
        if isinstance(index, Rows):
            return index
        if id(index) not in tuples:
            tuples[id(index)] = tuple(index.tolist())
        return tuples[id(index)]

    slices = {n: {d: plain(i) for d, i in s.items()} for n, s in resolved.slices.items()}
    return Edits(
        slices, tuple((p, a, v) for (p, a), v in attributes.items()), {n: graph.tensors[n].shape for n in slices},
        programs, numbers,
    )  # fmt: skip


def realised(
    model: nn.Module, graph: Graph, masks: Mapping[Axis, Tensor], attributes: Attributes
) -> tuple[Checked, dict[str, Program]]:
    """(the first operator that still does not run, and numbers to keep; the forwards that had to be rewritten)."""
    cut_axes = Masks.of(masks)
    programs: dict[str, Program] = {}
    rewriting: Rewriting | None = None
    blocks: Blocks | None = None
    shapes = ShapeCheck(model)
    while True:
        result = shapes.checked(graph, masks, attributes, programs)
        problem = result.problem
        if problem is None:
            return result, programs
        why = ""
        for path in lineage(
            graph.every_op[problem.op].path
        ):  # an operator outside of any module belongs to the next one
            if any(p in programs for p in lineage(path)):
                continue
            try:
                rewriting = rewriting or Rewriting(Tape.of(model, graph), cut_axes)
                written = {path: rewriting.program(path)}
            except CannotRewrite as e:
                why = why or str(e)
                continue
            blocks = blocks or Blocks(model, graph)
            for other in blocks.alike(path):  # each would fail at the same operator, one check after another
                at = blocks.counterpart(problem.op, path, other)
                if at is not None and _changes(graph.every_op[at], cut_axes):
                    with suppress(CannotRewrite):
                        written[other] = rewriting.program(other)
            programs = {p: w for p, w in programs.items() if not _inside_any(p, written)} | {
                p: w for p, w in written.items() if not any(q in programs for q in lineage(p))
            }
            break
        else:
            problem = replace(problem, message=f"{problem.message}; {why}" if why else problem.message)
            return Checked(problem, {}), programs


def _changes(op: Op, cut_axes: Masks) -> bool:
    """Whether a cut changes the size of anything that an operator reads or gives."""
    return any(not cut_axes.is_whole(a) for v in (*op.inputs, *op.outputs) for a in v.axes)


def _inside_any(path: str, others: Iterable[str]) -> bool:
    return any(other != path and (not other or path.startswith(f"{other}.")) for other in others)


def cut(model: nn.Module, graph: Graph, plan: Plan | Resolved) -> nn.Module:
    """A smaller model of the same class; the model given stays as it is.

    Raises:
        NothingToDo, CannotCut, BadInput: see `edits_for`.
    """
    return apply_edits(model, edits_for(model, graph, plan))
