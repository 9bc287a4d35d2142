"""The proof of a cut, taken on every run before any repair: the cut network equals the zero-masked original.

The zero-masked original keeps its shapes; every parameter slice of a removed unit is zero. Where no operator mixes
units, both compute the same. Layer, rms and group norms mix units: their reference takes the statistics over the
remaining units. Groups that any other operator mixes are counted and left out of the comparison.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed
from sartor.errors import BadInput, NothingToDo, ProofFailed
from sartor.structure.axes import find, keep_mask
from sartor.structure.example import Example, call, map_tensors, tensors
from sartor.structure.graph import Graph, Resolved
from sartor.structure.model_copy import clone, named_tensors
from sartor.structure.unfibre import reordered, straight
from sartor.surgery.cut import cut
from sartor.surgery.survivors import reference_output, reproducible
from sartor.torch_internals import own_parameters
from sartor.types import Plan, Verdict
from sartor.wrappers import unwrapped

_PICKS = {"topk", "sort", "argsort", "nms", "nonzero", "argmax", "max", "unique", "_unique2"}


def silence(model: nn.Module, graph: Graph, plan: Plan | Resolved) -> nn.Module:
    """A copy with the same shapes in which every parameter slice of the removed units is zero.

    Raises:
        BadInput: the plan is not for this graph.
    """
    model = unwrapped(model).module
    resolved = graph.resolve(plan)
    if resolved.orders:
        renumbered, plain = straight(model, graph, resolved)
        back = {n: order.argsort(1) for n, order in resolved.orders.items()}
        return reordered(silence(renumbered, graph, plain), graph, back)
    directions = {v.name for op in graph.ops if op.kind == "weight_norm" for v in op.args[:1]}
    new = clone(model, lambda t: t.detach().clone())
    with torch.no_grad():
        for owner, key, name, t in named_tensors(new):
            if key not in own_parameters(owner) or name in directions:  # 0 / |0| has no value; its magnitude is zeroed
                continue
            for d, a in enumerate(graph.tensors[name].axes):
                mask = keep_mask(a, resolved.masks)
                if not bool(mask.all()):
                    shape = [-1 if i == d else 1 for i in range(t.dim())]
                    t.mul_(mask.to(t.device).view(shape).to(t.dtype))
    return new


def prove(
    model: nn.Module,
    graph: Graph,
    plan: Plan | Resolved,
    example: Example,
    *,
    tolerance: float = 1e-4,
    smaller: nn.Module | None = None,
) -> Verdict:
    """Compare the cut model with the zero-masked original on real inputs, in evaluation mode.

    A plan with fibres is proved in two steps. First the original is renumbered so that all rows keep the same places;
    the renumbered model must compute what the original does. Then the cut model must equal the renumbered model cut
    in the ordinary way, in its values and in what it computes.

    Args:
        example: real inputs, a few samples.
        tolerance: largest difference allowed, relative to the largest output.
        smaller: the cut model, if it was made already.

    Raises:
        ProofFailed: some group differs; names the worst.
        NothingToDo: the plan keeps every unit.
        BadInput: the plan is not for this graph.
    """
    model = unwrapped(model).module
    smaller = None if smaller is None else unwrapped(smaller).module
    resolved = graph.resolve(plan)
    if not resolved.masks:
        raise NothingToDo("the plan keeps every unit of every group")
    renumbering_error = 0.0
    if resolved.orders:
        names, original_output = ", ".join(resolved.orders), _output(model, example)
        model, resolved = straight(model, graph, resolved)
        renumbering_error = _gap(original_output, _output(model, example))
        if not renumbering_error <= tolerance:
            raise ProofFailed(
                f"renumbering the units row by row changes the function: relative error {renumbering_error:.2e} > "
                f"{tolerance:.0e} without any cut; leave the fibres out (of {names}) and report the model"
            )
        if smaller is not None and not _equal(smaller, cut(model, graph, resolved)):
            raise ProofFailed(
                f"the cut model holds other values than one cut after renumbering; leave the fibres out (of {names}) "
                "and report the model"
            )
    cut_groups = [n for n in resolved.plan.keep if find(graph.leaves[n]) in resolved.masks]
    mixed = {n for n in cut_groups if graph.groups[n].mixes and not reproducible(graph, n)}
    mixed |= {n for tied in graph.ties if mixed & set(tied) for n in tied if n in cut_groups}  # they only go together
    compared = [n for n in cut_groups if n not in mixed]
    if not compared:
        return Verdict(renumbering_error, 0, len(mixed), tolerance)
    if mixed:
        keep = {n: k for n, k in resolved.plan.keep.items() if n not in mixed}
        resolved, smaller = graph.resolve(replace(resolved.plan, keep=keep)), None
    cut_model = cut(model, graph, resolved) if smaller is None else smaller
    error = difference(model, graph, resolved, cut_model, example)
    if not error <= tolerance:
        alone = {n: _alone(model, graph, n, resolved.plan, example) for n in compared}
        worst = max(alone, key=alone.__getitem__)
        raise ProofFailed(
            f"the cut model differs from the zero-masked original: relative error {error:.2e} > {tolerance:.0e}; group "
            f"{worst!r} alone differs by {alone[worst]:.2e}. Exclude it (exclude=[{worst!r}]) and report the model"
        )
    return Verdict(max(error, renumbering_error), len(compared), len(mixed), tolerance)


def _equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for (*_, a), (*_, b) in zip(named_tensors(one), named_tensors(other), strict=True))


def difference(model: nn.Module, graph: Graph, plan: Plan | Resolved, smaller: nn.Module, example: Example) -> float:
    """Largest difference between the cut model and the zero-masked original, relative to the largest output.

    Where a forward selects by value (top-k, non-maximum suppression), rounding could decide between nearly equal
    candidates: both models are then computed in float64.
    """
    resolved = graph.resolve(plan)
    if any(graph.groups[n].mixes for n in resolved.orders):
        raise BadInput("difference: norms over fibred units have no reference; take the plan through `straight` first")
    reference = silence(model, graph, resolved)
    if any(op.name in _PICKS and op.live for op in graph.ops):
        try:
            exact, small, given = _in_double(reference), _in_double(smaller), map_tensors(_double, example)
            return _compared(exact, resolved, small, given)
        except (RuntimeError, TypeError, ValueError):  # the forward only takes its own precision
            pass
    return _compared(reference, resolved, smaller, example)


def _in_double(model: nn.Module) -> nn.Module:
    return clone(model, lambda t: _double(t.detach()).clone())


def _double(t: Tensor) -> Tensor:
    return t.double() if t.dtype.is_floating_point else t


def _compared(reference: nn.Module, resolved: Resolved, smaller: nn.Module, example: Example) -> float:
    with borrowed(reference), torch.no_grad():
        expected = reference_output(reference, resolved.graph, resolved.masks, example)
    return _gap(expected, _output(smaller, example))


def _output(model: nn.Module, example: Example) -> Any:
    with borrowed(model), torch.no_grad():
        return call(model, example)


def _gap(expected: Any, actual: Any) -> float:
    """Largest difference over all outputs, relative to the largest output."""
    worst = 0.0
    for a, b in zip(tensors(expected), tensors(actual)):
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
    one = graph.resolve(replace(plan, keep={n: plan.keep[n] for n in tied if n in plan.keep}))
    return difference(model, graph, one, cut(model, graph, one), example)
