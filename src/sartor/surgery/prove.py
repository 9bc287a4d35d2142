"""Cutting = silencing: the proof taken on every run, before any repair.

Silencing a unit zeroes every parameter slice it has and keeps the shapes. Where no operator mixes units, a cut network
computes what the silenced original computes. Layer and group norms mix: their reference takes the statistics over the
units that survive. Groups mixed by anything else are counted and left out of the comparison.
"""

from __future__ import annotations

import torch
from torch import nn

from sartor.borrow import borrowed
from sartor.errors import NothingToDo, ProofFailed
from sartor.structure.axes import find, keep_mask
from sartor.structure.example import Example, call, tensors
from sartor.structure.graph import Graph
from sartor.structure.record import clone, named_tensors
from sartor.surgery.cut import cut
from sartor.surgery.survivors import reference_output, reproducible
from sartor.types import Plan, Proof


def silence(model: nn.Module, graph: Graph, plan: Plan) -> nn.Module:
    """A copy with the same shapes in which every parameter slice of the removed units is zero."""
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


def prove(
    model: nn.Module,
    graph: Graph,
    plan: Plan,
    example: Example,
    *,
    tolerance: float = 1e-4,
    smaller: nn.Module | None = None,
) -> Proof:
    """Compare the cut model with the silenced original on real inputs, in evaluation mode.

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
    cuts = [n for n in plan.keep if find(graph.leaves[n]) in masks]
    mixed = {n for n in cuts if graph.groups[n].mixes and not reproducible(graph, n)}
    mixed |= {n for tied in graph.ties if mixed & set(tied) for n in tied if n in cuts}  # they only go together
    exact = Plan({n: k for n, k in plan.keep.items() if n not in mixed}, plan.made_by, plan.fingerprint)
    n_exact = len(cuts) - len(mixed)
    if not n_exact:
        return Proof(True, 0.0, 0, len(mixed), tolerance)
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
    return Proof(True, error, n_exact, len(mixed), tolerance)


def difference(model: nn.Module, graph: Graph, plan: Plan, smaller: nn.Module, example: Example) -> float:
    """Largest difference between cut model and silenced original over all outputs, relative to the largest output."""
    reference = silence(model, graph, plan)
    with borrowed(reference), borrowed(smaller), torch.no_grad():
        want = reference_output(reference, graph, graph.masks(plan), example)
        got = call(smaller, example)
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
