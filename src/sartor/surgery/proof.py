"""Cutting = silencing: the proof taken on every run, before any repair.

Silencing a unit zeroes every parameter slice it has and keeps the shapes. Where no operator mixes units, a cut network
computes what the silenced original computes. Layer and group norms mix: their reference takes the statistics over the
units that survive. Groups mixed by anything else are counted and left out of the comparison.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed
from sartor.errors import BadInput, NothingToDo, ProofFailed
from sartor.structure.axes import find, keep_mask
from sartor.structure.example import Example, call, map_tensors, tensors
from sartor.structure.graph import Graph
from sartor.structure.model_copy import clone, named_tensors
from sartor.structure.unfibre import reordered, straight
from sartor.surgery.cut import cut
from sartor.surgery.survivors import reference_output, reproducible
from sartor.types import Plan, Verdict

_PICKS = {"topk", "sort", "argsort", "nms", "nonzero", "argmax", "max", "unique", "_unique2"}


def silence(model: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
    """A copy with the same shapes in which every parameter slice of the removed units is zero."""
    if plan.fibres:
        back = {n: order.argsort(1) for n, order in graph.orders(plan).items()}
        return reordered(_silent_straight(model, graph, plan), graph, back)
    masks = graph.masks(plan)
    directions = {v.name for op in graph.ops if op.kind == "weight_norm" for v in op.args[:1]}
    new = clone(model, lambda t: t.detach().clone())
    with torch.no_grad():
        for owner, key, name, t in named_tensors(new):
            if key not in owner._parameters or name in directions:  # 0 / |0| has no value; its magnitude is zeroed
                continue
            for d, a in enumerate(graph.tensors[name].axes):
                mask = keep_mask(a, masks)
                if not bool(mask.all()):
                    shape = [-1 if i == d else 1 for i in range(t.dim())]
                    t.mul_(mask.to(t.device).view(shape).to(t.dtype))
    return new


def _silent_straight(model: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
    model, plan = straight(model, graph, plan)
    return silence(model, graph, plan)


def prove(
    model: nn.Module,
    graph: Graph,
    plan: Plan,
    example: Example,
    *,
    tolerance: float = 1e-4,
    smaller: nn.Module | None = None,
) -> Verdict:
    """Compare the cut model with the silenced original on real inputs, in evaluation mode.

    A plan with fibres is proved in two steps: the original computes the same with every row's units in one place, and
    the cut model holds and computes what that one does with the same units cut, or silenced, in all rows.

    Args:
        example: real inputs, a few samples.
        tolerance: largest difference allowed, relative to the largest output.
        smaller: the cut model, if it was made already.

    Raises:
        ProofFailed: some group differs; names the worst.
    """
    masks = graph.masks(plan)
    if not masks:
        raise NothingToDo("the plan keeps every unit of every group")
    turned = 0.0
    if plan.fibres:
        names, want = ", ".join(plan.fibres), _output(model, example)
        model, plan = straight(model, graph, plan)
        turned = _gap(want, _output(model, example))
        if not turned <= tolerance:
            raise ProofFailed(
                f"other units for every row change the function: relative error {turned:.2e} > {tolerance:.0e} without "
                f"any cut; leave the fibres out (of {names}) and report the model"
            )
        if smaller is not None and not _equal(smaller, cut(model, graph, plan)):
            raise ProofFailed(
                f"the cut model holds other values than one cut after renumbering; leave the fibres out (of {names}) "
                "and report the model"
            )
    cuts = [n for n in plan.keep if find(graph.leaves[n]) in masks]
    mixed = {n for n in cuts if graph.groups[n].mixes and not reproducible(graph, n)}
    mixed |= {n for tied in graph.ties if mixed & set(tied) for n in tied if n in cuts}  # they only go together
    exact = Plan({n: k for n, k in plan.keep.items() if n not in mixed}, plan.made_by, plan.fingerprint)
    n_exact = len(cuts) - len(mixed)
    if not n_exact:
        return Verdict(turned, 0, len(mixed), tolerance)
    cut_model = smaller if smaller is not None and not mixed else cut(model, graph, exact)
    error = difference(model, graph, exact, cut_model, example)
    if not error <= tolerance:
        worst = max(
            (n for n in cuts if n not in mixed),
            key=lambda n: _alone(model, graph, n, exact, example),
        )
        raise ProofFailed(
            f"cutting is not silencing: relative error {error:.2e} > {tolerance:.0e}; group {worst!r} alone differs by "
            f"{_alone(model, graph, worst, exact, example):.2e}. Exclude it (exclude=[{worst!r}]) and report the model"
        )
    return Verdict(max(error, turned), n_exact, len(mixed), tolerance)


def _equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for (*_, a), (*_, b) in zip(named_tensors(one), named_tensors(other), strict=True))


def difference(model: nn.Module, graph: Graph, plan: Plan, smaller: nn.Module, example: Example) -> float:
    """Largest difference between cut model and silenced original over all outputs, relative to the largest output.

    Where a forward picks by value (the largest so many, what does not overlap), rounding could decide between nearly
    equal candidates: both are computed in float64 then.
    """
    if plan.fibres and any(graph.groups[n].mixes for n in plan.fibres):
        raise BadInput("difference: norms over fibred units have no reference; take the plan through `straight` first")
    reference = silence(model, graph, plan)
    if any(op.name in _PICKS and op.live for op in graph.ops):
        try:
            exact, small, given = _in_double(reference), _in_double(smaller), map_tensors(_double, example)
            return _compared(exact, graph, plan, small, given)
        except (RuntimeError, TypeError, ValueError):  # it insists on a precision
            pass
    return _compared(reference, graph, plan, smaller, example)


def _in_double(model: nn.Module) -> nn.Module:
    return clone(model, lambda t: _double(t.detach()).clone())


def _double(t: Tensor) -> Tensor:
    return t.double() if t.dtype.is_floating_point else t


def _compared(reference: nn.Module, graph: Graph, plan: Plan, smaller: nn.Module, example: Example) -> float:
    with borrowed(reference), torch.no_grad():
        want = reference_output(reference, graph, graph.masks(plan), example)
    return _gap(want, _output(smaller, example))


def _output(model: nn.Module, example: Example) -> Any:
    with borrowed(model), torch.no_grad():
        return call(model, example)


def _gap(want: Any, got: Any) -> float:
    """Largest difference over all outputs, relative to the largest output."""
    worst = 0.0
    for a, b in zip(tensors(want), tensors(got)):
        if not a.dtype.is_floating_point:
            continue
        if a.shape != b.shape:
            return float("inf")
        scale = float(a.abs().max()) if a.numel() else 0.0
        gap = float((a - b).abs().max()) if a.numel() else 0.0
        error = gap / scale if scale else gap
        worst = max(worst, error if error == error else float("inf"))
    return worst


def _alone(model: nn.Module, graph: Graph, name: str, plan: Plan, example: Example) -> float:
    tied = next((t for t in graph.ties if name in t), (name,))
    one = Plan({n: plan.keep[n] for n in tied if n in plan.keep}, plan.made_by, plan.fingerprint)
    return difference(model, graph, one, cut(model, graph, one), example)
