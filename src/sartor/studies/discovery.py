"""How well one network is understood: found, cut in half everywhere, run, proved, trained, exported."""

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
from sartor.structure import Graph, trace
from sartor.structure.example import Example, call, tensors
from sartor.surgery import cut, probe
from sartor.torch_internals import BatchNorm
from sartor.types import Plan

LEAST = 8  # units of a group that is cut here


def examine(
    model: nn.Module,
    example: Example,
    *,
    exporter: Callable[[nn.Module, Example], Any] | None = None,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> dict[str, Any]:
    """Every claim about one network, checked; what failed is told in "why", and the rest still stands.

    Args:
        model: with weights that are not degenerate; borrowed.
        example: real inputs.
        exporter: of the cut network; raises where its file does not compute the same.
        seed: draws which units stay.
        tolerance: of the proof.

    Returns:
        {"params", "discovered", "operators", "groups" (of LEAST units or more), "realised" (those that can be cut in
        this class), "coverage" (share of the parameters on an axis that was found), "seconds" (of the processor, for
        discovery), "runs", "shapes", "exact" (None: no exact group), "error", "mixing" (groups outside the proof),
        "trains", "exports" (None: not asked), "why": {stage: sentence}}.
    """
    row: dict[str, Any] = {
        "params": sum(p.numel() for p in model.parameters()), "discovered": False, "operators": 0, "groups": 0,
        "realised": 0, "coverage": 0.0, "seconds": None, "runs": False, "shapes": False, "exact": None, "error": None,
        "mixing": 0, "trains": False, "exports": None, "why": {},
    }  # fmt: skip

    def attempt(stage: str, act: Callable[[], Any]) -> Any:
        try:
            return act()
        except Exception as e:
            row["why"][stage] = _said(e)
            return None

    model = copy.deepcopy(model).eval()
    found: Graph | None = attempt("discover", lambda: trace(model, example))
    if found is None:
        return row
    start = time.process_time()
    trace(model, example)  # once more: the first one imports and compiles
    row |= {"seconds": time.process_time() - start, "discovered": True, "operators": len(found.ops)}
    row["coverage"] = coverage(found)
    wide = {n for n, g in found.groups.items() if g.units >= LEAST}
    row["groups"] = len(wide)
    graph: Graph | None = attempt("probe", lambda: probe(model, found))
    if graph is None:
        return row
    left = [n for n in graph.groups if graph.groups[n].units >= LEAST]
    row["realised"] = len(left)
    lost = [f for f in graph.frozen if f.reason not in {g.reason for g in found.frozen}]
    if lost:
        row["why"]["realise"] = "; ".join(dict.fromkeys(f.reason for f in lost))[:300]
    if not left:
        return row
    plan = halved(graph, seed)
    smaller = attempt("cut", lambda: cut(model, graph, plan))
    if smaller is None:
        return row
    with torch.no_grad(), borrowed(model), borrowed(smaller):
        out = attempt("run", lambda: call(smaller, example))
        want = attempt("run the original", lambda: call(model, example))
    if out is None:
        return row
    row["runs"] = True
    by_value = 1 if any(op.name in ("nonzero", "nms") for op in graph.ops) else 0  # as many rows as the values say
    row["shapes"] = [(t.dim(), t.shape[by_value:]) for t in tensors(out)] == [
        (t.dim(), t.shape[by_value:]) for t in tensors(want)
    ]
    row |= _proved(Subject(model, example, graph, count(graph)), plan, smaller, tolerance, row["why"])
    row["trains"] = bool(attempt("train", lambda: _one_step(smaller, example, seed)))
    if exporter is not None:
        row["exports"] = attempt("export", lambda: (exporter(smaller.eval(), example), True)[1]) or False
    return row


def exported(
    model: nn.Module, example: Example, exporter: Callable[[nn.Module, Example], Any], *, seed: int = 0
) -> dict[str, Any]:
    """Only whether the network that `examine` cuts exports: its "exports" and, where that failed, "why"."""
    try:
        graph = probe(model, trace(model, example))
        exporter(cut(model, graph, halved(graph, seed)).eval(), example)
    except Exception as e:
        return {"exports": False, "why": {"export": _said(e)}}
    return {"exports": True, "why": {}}


def _said(e: Exception) -> str:
    return f"{type(e).__name__}: {e}".split("\n")[0][:300]


def halved(graph: Graph, seed: int = 0) -> Plan:
    """Half of every group of at least LEAST units, at random; tied groups keep equal counts."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for name, group in graph.groups.items():
        if group.units >= LEAST:
            chosen = torch.randperm(group.units, generator=generator)[: group.units // 2]
            keep[name] = tuple(sorted(chosen.tolist()))
    return Plan(keep, "halved", graph.fingerprint)


def coverage(graph: Graph) -> float:
    """Share of the parameters that lie on an axis of some group; tied tensors count once."""
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
        why["prove"] = _said(e)
        return {"exact": False}
    exact = None if not proof.groups else True
    return {"exact": exact, "error": proof.max_relative_error, "mixing": proof.mixing_groups}


def _one_step(smaller: nn.Module, example: Example, seed: int) -> bool:
    """One step of SGD in training mode: the loss is finite and weights move."""
    with seeded(seed), torch.random.fork_rng(devices=[]):
        smaller.train()
        _norms_of_one_value(smaller)
        out = [t for t in tensors(call(smaller, example)) if t.requires_grad]
        loss = sum((t.float().square().mean() for t in out), start=torch.zeros((), device=device_of(smaller)))
        loss.backward()
    moved = [p for p in smaller.parameters() if p.grad is not None]
    finite = all(bool(torch.isfinite(p.grad).all()) for p in moved if p.grad is not None)
    if not (moved and finite and bool(torch.isfinite(loss))):
        raise ArithmeticError(f"{len(moved)} gradients, finite: {finite}, loss {float(loss):.3g}")
    return True


def _norms_of_one_value(model: nn.Module) -> None:
    """Batch norms keep their statistics: of one sample and one position there are none."""
    for m in model.modules():
        if isinstance(m, BatchNorm):
            m.eval()
