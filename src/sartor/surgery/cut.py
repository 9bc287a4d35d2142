"""Cut a network physically, in its own class."""

from __future__ import annotations

from torch import nn

from sartor.errors import NothingToDo, SartorError
from sartor.structure.graph import Graph
from sartor.surgery.attributes import attributes_for
from sartor.surgery.check import check
from sartor.surgery.edits import Edits, apply_edits
from sartor.types import Plan


class CannotCut(SartorError, ValueError):
    """The forward states a size that no attribute holds; names the operator and what to do."""


def edits_for(model: nn.Module, graph: Graph, plan: Plan) -> Edits:
    """Slices and attribute values that realise a plan, checked operator by operator on meta tensors.

    Raises:
        NothingToDo: the plan keeps every unit.
        CannotCut: an operator would not run with the new sizes.
        BadInput: the plan is not for this graph.
    """
    masks = graph.masks(plan)
    if not masks:
        raise NothingToDo("the plan keeps every unit of every group")
    attributes = attributes_for(model, graph, masks)
    problem = check(model, graph, masks, attributes)
    if problem:
        raise CannotCut(
            f"{problem.message}; the forward states a size that no attribute holds. "
            "`probe(model, graph)` freezes such groups; holding the size in an attribute frees them"
        )
    slices = {n: {d: tuple(i.tolist()) for d, i in s.items()} for n, s in graph.slices(plan).items()}
    return Edits(
        slices, tuple((p, a, v) for (p, a), v in attributes.items()), {n: graph.tensors[n].shape for n in slices}
    )


def cut(model: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
    """A smaller model of the same class; the model given stays as it is.

    Raises:
        NothingToDo, CannotCut, BadInput: see `edits_for`.
    """
    return apply_edits(model, edits_for(model, graph, plan))
