"""The check of a cut network without its function: slices, attributes, and the shapes of a forward."""

from __future__ import annotations

from torch import nn

from sartor.borrow import uncollected
from sartor.errors import NothingToDo, ProofFailed
from sartor.structure.axes import find
from sartor.structure.graph import Graph, Resolved
from sartor.surgery.delivered import check_delivered
from sartor.surgery.shape_check import ShapeCheck
from sartor.types import Plan, Verdict
from sartor.wrappers import unwrapped

NOT_COMPARED = "the function was not compared: only slices, attributes and the shapes of a forward were"


@uncollected()
def check_cut(model: nn.Module, graph: Graph, plan: Plan | Resolved, smaller: nn.Module) -> Verdict:
    """Compare a cut network with the kept slices of the original, and run its forward on tensors without values.

    Takes about as long as the cut. Every tensor must hold the kept units of the original bit for bit, every attribute
    must be the original's unless the cut changes it, and every operator must give the predicted shape. What the two
    networks compute is not compared; `prove` does that as well.

    Args:
        model: the original.
        graph: traced from it.
        plan: that `smaller` was cut by.
        smaller: the cut network, before it was repaired or trained.

    Returns:
        A Verdict with the status "not comparable": it names the number of tensors compared, and every cut group with
        the sentence that its function was not compared.

    Raises:
        ProofFailed: names the first tensor, attribute or operator that differs.
        NothingToDo: the plan keeps every unit.
        BadInput: the plan is not for this graph.
    """
    model, smaller = unwrapped(model).module, unwrapped(smaller).module
    resolved = graph.resolve(plan)
    if not resolved.masks:
        raise NothingToDo("the plan keeps every unit of every group")
    held = check_delivered(model, graph, resolved, smaller)
    problem = ShapeCheck(smaller).problem(graph, resolved.masks, {})
    if problem is not None:
        raise ProofFailed(f"the cut network does not run as predicted: {problem.message}; report the model")
    left_out = tuple((n, NOT_COMPARED) for n in resolved.plan.keep if find(graph.leaves[n]) in resolved.masks)
    return Verdict(0.0, 0, len(left_out), left_out=left_out, tensors=held, note=NOT_COMPARED)


__all__ = ["check_cut"]
