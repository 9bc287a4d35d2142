"""One network traced, cut to random shares of every axis, run, proved, trained one step and exported."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from sartor.borrow import borrowed, device_of
from sartor.cost import count
from sartor.errors import SartorError
from sartor.run import stages
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.structure import Graph, record_variant, trace
from sartor.structure.example import Example, call, tensors
from sartor.structure.other_inputs import other_inputs
from sartor.studies.generality import generality
from sartor.surgery import cut, probe
from sartor.testing.plans import tie_of, unequal
from sartor.torch_internals import BatchNorm
from sartor.types import Plan

LEAST = 8  # units of a group that is cut here, at least


def examine(
    model: nn.Module,
    example: Example,
    *,
    exporter: Callable[[nn.Module, Example], Any] | None = None,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> dict[str, Any]:
    """Trace, cut, prove and train one network; each stage that fails leaves its message in "why".

    Args:
        model: with weights like those of a trained network; borrowed.
        example: real inputs.
        exporter: of the cut network; raises if its file does not compute what the network computes.
        seed: draws which units stay.
        tolerance: of the proof.

    Returns:
        {"params", "discovered", "operators", "groups" (of LEAST units or more), "realised" (groups that can be cut in
        this class), "coverage" (share of the parameters on an axis of a group), "seconds" (CPU time of the trace),
        "runs", "shapes" (whether outputs have the original's shapes), "exact" (None: no group can be compared
        exactly), "error", "mixing" (groups outside the proof), "trains", "exports" (None: not tried),
        "general" (what the cut network takes of what the original takes, see `generality`; None: not tried),
        "why": {stage: message}}.
    """
    row: dict[str, Any] = {
        "params": sum(p.numel() for p in model.parameters()), "discovered": False, "operators": 0, "groups": 0,
        "realised": 0, "coverage": 0.0, "seconds": None, "runs": False, "shapes": False, "exact": None, "error": None,
        "mixing": 0, "trains": False, "exports": None, "general": None, "why": {},
    }  # fmt: skip

    def attempt(stage: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as e:
            row["why"][stage] = _message(e)
            return None

    model = copy.deepcopy(model).eval()
    traced: Graph | None = attempt("discover", lambda: traced_with_variants(model, example))
    if traced is None:
        return row
    start = time.process_time()
    trace(model, example)  # the first trace imports and compiles; the second is timed
    row |= {"seconds": time.process_time() - start, "discovered": True, "operators": len(traced.ops)}
    row["coverage"] = coverage(traced)
    wide = {n for n, g in traced.groups.items() if g.units >= LEAST}
    row["groups"] = len(wide)
    graph: Graph | None = attempt("probe", lambda: probe(model, traced))
    if graph is None:
        return row
    left = [n for n in graph.groups if graph.groups[n].units >= LEAST]
    row["realised"] = len(left)
    lost = [f for f in graph.frozen if f.reason not in {g.reason for g in traced.frozen}]
    if lost:
        row["why"]["realise"] = "; ".join(dict.fromkeys(f.reason for f in lost))[:300]
    if not left:
        return row
    plan = shares(graph, seed)
    smaller = attempt("cut", lambda: cut(model, graph, plan))
    if smaller is None:
        return row
    with torch.no_grad(), borrowed(model), borrowed(smaller):
        out = attempt("run", lambda: call(smaller, example))
        expected = attempt("run the original", lambda: call(model, example))
    if out is None:
        return row
    row["runs"] = True
    by_value = 1 if any(op.name in ("nonzero", "nms") for op in graph.ops) else 0  # rows depend on values
    row["shapes"] = [(t.dim(), t.shape[by_value:]) for t in tensors(out)] == [
        (t.dim(), t.shape[by_value:]) for t in tensors(expected)
    ]
    row |= _proved(Subject(model, example, graph, count(graph)), plan, smaller, tolerance, row["why"])
    row["general"] = attempt("generality", lambda: generality(model, graph, plan, example, tolerance=tolerance))
    row["trains"] = bool(attempt("train", lambda: _one_step(smaller, example, seed)))
    if exporter is not None:
        row["exports"] = attempt("export", lambda: (exporter(smaller.eval(), example), True)[1]) or False
    return row


def exported(
    model: nn.Module, example: Example, exporter: Callable[[nn.Module, Example], Any], *, seed: int = 0
) -> dict[str, Any]:
    """Whether the network that `examine` cuts can be exported: {"exports", "why"}."""
    try:
        graph = probe(model, traced_with_variants(model, example))
        exporter(cut(model, graph, shares(graph, seed)).eval(), example)
    except Exception as e:
        return {"exports": False, "why": {"export": _message(e)}}
    return {"exports": True, "why": {}}


def _message(e: Exception) -> str:
    return f"{type(e).__name__}: {e}".split("\n")[0][:300]


def traced_with_variants(model: nn.Module, example: Example) -> Graph:
    """The trace of a run: the forward on the example, and on other inputs that the model takes."""
    recorded = (record_variant(model, x) for x in other_inputs(model, example))
    return trace(model, example, [r for r in recorded if r is not None])


def shares(graph: Graph, seed: int = 0) -> Plan:
    """A plan that keeps another random share of every group of at least LEAST units; tied ones keep equal counts."""
    plan = unequal(graph, seed)
    wide = {n for n in plan.keep if all(graph.groups[t].units >= LEAST for t in tie_of(graph, n))}
    return Plan({n: k for n, k in plan.keep.items() if n in wide}, "shares", graph.fingerprint)


def halved(graph: Graph, seed: int = 0) -> Plan:
    """A plan that keeps a random half of every group of at least LEAST units; tied groups keep equal counts."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for name, group in graph.groups.items():
        if group.units >= LEAST:
            chosen = torch.randperm(group.units, generator=generator)[: group.units // 2]
            keep[name] = tuple(sorted(chosen.tolist()))
    return Plan(keep, "halved", graph.fingerprint)


def coverage(graph: Graph) -> float:
    """The share of the parameters that lie on an axis of a group; tied tensors count once."""
    one = {id(v): v for v in graph.tensors.values() if v.origin == "parameter"}
    on = {id(graph.tensors[m.tensor]) for g in graph.groups.values() for m in g.members}
    whole = sum(v.numel({}) for v in one.values())
    return sum(v.numel({}) for k, v in one.items() if k in on) / (whole or 1)


def _proved(
    subject: Subject, plan: Plan, smaller: nn.Module, tolerance: float, why: dict[str, str]
) -> Mapping[str, Any]:
    try:
        proof = stages.verify(subject, plan, smaller, inputs=subject.example, tolerance=tolerance)
    except SartorError as e:
        why["prove"] = str(e)[:300]
        return {"exact": False}
    except Exception as e:
        why["prove"] = _message(e)
        return {"exact": False}
    exact = None if not proof.groups else True
    return {"exact": exact, "error": proof.max_relative_error, "mixing": proof.mixing_groups}


def _one_step(smaller: nn.Module, example: Example, seed: int) -> bool:
    """One backward pass in training mode: loss and gradients are finite.

    Raises:
        ArithmeticError: they are not, or there are no gradients.
    """
    with seeded(seed), torch.random.fork_rng(devices=[]):
        smaller.train()
        _freeze_norms_(smaller)
        out = [t for t in tensors(call(smaller, example)) if t.requires_grad]
        loss = sum((t.float().square().mean() for t in out), start=torch.zeros((), device=device_of(smaller)))
        loss.backward()
    with_gradient = [p for p in smaller.parameters() if p.grad is not None]
    finite = all(bool(torch.isfinite(p.grad).all()) for p in with_gradient if p.grad is not None)
    if not (with_gradient and finite and bool(torch.isfinite(loss))):
        raise ArithmeticError(f"{len(with_gradient)} gradients, finite: {finite}, loss {float(loss):.3g}")
    return True


def _freeze_norms_(model: nn.Module) -> None:
    """Batch norms use their running statistics: one sample with one position has no variance."""
    for m in model.modules():
        if isinstance(m, BatchNorm):
            m.eval()
