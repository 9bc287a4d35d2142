"""The contract of a workload: everything that Sartor promises, checked on one network."""

from __future__ import annotations

import random
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sartor.borrow import borrowed
from sartor.cost import count
from sartor.cost.macs import evaluate, terms
from sartor.errors import SartorError
from sartor.export import export_onnx, export_pt2
from sartor.export.weights import load_weights_, save_weights
from sartor.structure import Graph, record_variant, trace
from sartor.structure.axes import find, leaves
from sartor.structure.example import Example, call, tensors
from sartor.structure.other_inputs import other_inputs
from sartor.surgery import Edits, apply_edits, cut, edits_for, probe, prove, silence
from sartor.surgery.double import example_in_double, in_double
from sartor.surgery.outputs import gap
from sartor.surgery.survivors import reference_output, rewritten_paths
from sartor.testing.plans import tie_of
from sartor.testing.workloads.workload import Workload, train_
from sartor.types import Plan, Verdict

WHOLE_UNLESS_NAMED = "tokens"  # kind of group that a run cuts only where it is named


class ContractBroken(SartorError, AssertionError):
    """A workload does not hold a line of the contract."""


@dataclass(frozen=True)
class WorkloadCheck:
    """What the contract measured."""

    groups: int
    pinned: float  # share of the MACs of operators on which nothing can be cut
    frozen: tuple[str, ...]  # why axes stay whole, in words
    share: float  # of the MACs or bytes that is left
    verdict: Verdict
    sizes: int  # inputs of other sizes that were compared
    violation: tuple[float, float]  # before and after the cut
    quality: tuple[float, float, float]  # of the original, after the cut, after one epoch
    exported: str


def understood(entry: Workload, epochs: int | None = None) -> tuple[nn.Module, Graph]:
    """The original after its warm-up (or `epochs` of training), and its graph with the groups that can be cut."""
    model = entry.build()
    train_(model, entry, entry.warm_up if epochs is None else epochs)
    first, *others = entry.examples()
    recorded = [record_variant(model, x) for x in (*others, *other_inputs(model, first))]
    return model, probe(model, trace(model, first, [r for r in recorded if r is not None]))


def pinned_share(graph: Graph) -> float:
    """The share of the MACs of operators on which no axis of a group lies."""
    free = {find(leaf) for leaf in graph.leaves.values()}
    whole = evaluate(terms(graph), {})
    fixed = [(n, axes) for n, axes in terms(graph) if not free & {leaf for a in axes for leaf in leaves(a)}]
    return evaluate(fixed, {}) / whole if whole else 0.0


def unequal_plan(graph: Graph, metric: str, share: float, seed: int) -> Plan:
    """A plan that leaves at most this share of a cost and takes another share of every group; ties keep equal counts.

    Raises:
        ContractBroken: the groups do not reach the share with one unit each.
    """
    draw = random.Random(seed)
    names = [n for n, g in graph.groups.items() if g.kind != WHOLE_UNLESS_NAMED]
    names = [n for n in names if all(t in names for t in tie_of(graph, n))]
    rates: dict[str, float] = {}
    for name in names:
        rate = draw.uniform(0.4, 1.6)
        rates.update({t: rates.get(t, rate) for t in tie_of(graph, name)})

    def counts(strength: float) -> dict[str, int]:
        return {n: max(1, round(graph.groups[n].units * (1 - min(1.0, strength * rates[n])))) for n in names}

    whole = count(graph).get(metric)
    cost = lambda kept: count(graph, kept).get(metric) / whole
    low, high = 0.0, 2.5
    if cost(counts(high)) > share:
        raise ContractBroken(
            f"{metric}: {100 * share:g} % cannot be reached; {100 * cost(counts(high)):.0f} % is least"
        )
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if cost(counts(middle)) > share else (low, middle)
    keep = {n: sorted(draw.sample(range(graph.groups[n].units), k)) for n, k in counts(high).items()}
    chosen = {n: tuple(k) for n, k in keep.items() if len(k) < graph.groups[n].units}
    return Plan(chosen, "unequal", graph.fingerprint)


def check_workload(entry: Workload, *, share: float = 0.7, exporter: str = ".pt2") -> WorkloadCheck:
    """Take a workload through the contract.

    Groups are found; costs equal torch's counter; an unequal cut of 30 % is proved and keeps what the network must
    preserve; inputs of every size are taken with equal results; one epoch improves the quality; files give the network
    back bit for bit; the exported file computes what eager computes.

    Args:
        entry: the workload.
        share: of the MACs (or what `entry.budget` names) that is left.
        exporter: ".pt2" or ".onnx".

    Raises:
        ContractBroken: names the line that does not hold. Errors of Sartor itself pass unchanged.
    """
    model, graph = understood(entry)
    first = entry.examples()[0]

    def require(holds: bool, line: str) -> None:
        if not holds:
            raise ContractBroken(f"{entry.name}: {line}")

    frozen = tuple(dict.fromkeys(f.reason for f in graph.frozen))
    require(bool(graph.groups), f"no group can be cut: {'; '.join(frozen)}")
    counted, expected = count(graph).flops, counted_by_torch(model, first)
    require(counted == expected, f"{counted:,} FLOPs against {expected:,} of torch's counter")
    plan = unequal_plan(graph, entry.budget, share, entry.seed)
    resolved = graph.resolve(plan)
    edits = edits_for(model, graph, resolved)
    smaller = apply_edits(model, edits)
    left = count(graph, plan.counts()).get(entry.budget) / count(graph).get(entry.budget)
    verdict = prove(model, graph, resolved, first, smaller=smaller)
    require(verdict.status in ("exact", "partly"), f"the cut is {verdict.status}: {verdict.left_out}; {verdict.note}")
    violation = entry.violation(model), entry.violation(smaller)
    for when, error in zip(("original", "cut"), violation):
        require(error <= entry.tolerance, f"{entry.preserves}: error {error:.1e} in the {when} network")
    sizes = compare_sizes(entry, model, graph, plan, smaller, verdict)
    require_equal_copy(entry, edits, smaller)
    val = list(entry.data().val or ())
    untrained, before, after_cut = (entry.quality(m, val) for m in (entry.build(), model, smaller))
    require(
        before > untrained or not entry.warm_up,
        f"{entry.quality_name} is {before:.4g} after training, {untrained:.4g} before",
    )
    train_(smaller, entry, 1)
    trained = entry.quality(smaller, val)
    require(trained > after_cut, f"{entry.quality_name} fell from {after_cut:.4g} to {trained:.4g} in one epoch")
    error = entry.violation(smaller)
    require(error <= entry.tolerance, f"{entry.preserves}: error {error:.1e} after training")
    with tempfile.TemporaryDirectory(prefix="sartor-") as folder:
        export = export_onnx if exporter == ".onnx" else export_pt2
        report = export(smaller, first, Path(folder) / f"cut{exporter}")
    return WorkloadCheck(
        len(graph.groups), pinned_share(graph), frozen, left, verdict, sizes, violation, (before, after_cut, trained),
        f"{exporter}, {'any batch' if report['dynamic'] else 'one batch'}",
    )  # fmt: skip


def counted_by_torch(model: nn.Module, example: Example) -> int:
    """FLOPs as torch's own counter has them; attention and recurrent layers run as matrix products."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        plain = sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False), torch.no_grad()
        with plain[0], plain[1], plain[2], borrowed(model), FlopCounterMode(display=False) as counter:
            call(model, example)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
    return int(counter.get_total_flops())


def compare_sizes(
    entry: Workload, model: nn.Module, graph: Graph, plan: Plan, smaller: nn.Module, verdict: Verdict
) -> int:
    """Inputs of every size give what the zero-masked original gives; returns how many were compared.

    Groups whose function cannot be compared are kept whole for the comparison; the cut network itself must take every
    input and give outputs of the original's shapes.

    Raises:
        ContractBroken: names the input.
    """
    compared = {n: k for n, k in plan.keep.items() if n not in dict(verdict.left_out)}
    resolved = graph.resolve(Plan(compared, plan.made_by, plan.fingerprint))
    comparable = smaller if len(compared) == len(plan.keep) else cut(model, graph, resolved)
    silenced = silence(model, graph, resolved)
    done = 0
    with torch.no_grad(), borrowed(model), borrowed(smaller), borrowed(silenced), borrowed(comparable):
        for example in entry.examples():
            shapes = [tuple(t.shape) for t in tensors(example)]
            for network in (model, smaller, silenced):
                entry.begin(network)
            expected, actual = call(model, example), call(smaller, example)
            if [t.shape for t in tensors(expected)] != [t.shape for t in tensors(actual)]:
                raise ContractBroken(f"{entry.name}: other output shapes on inputs {shapes}")
            reference = reference_output(silenced, graph, resolved.masks, example, rewritten_paths(comparable))
            if reference.complete:
                entry.begin(comparable)
                found = gap(reference.output, call(comparable, example))
                if 1e-4 < found.error < 1e-2:  # an output may be the small difference of large numbers
                    double, masked = example_in_double(example), in_double(silenced)
                    entry.begin(masked)
                    exact = reference_output(masked, graph, resolved.masks, double, rewritten_paths(comparable))
                    found = gap(exact.output, call(in_double(comparable), double))
                if not found.error <= 1e-4:
                    raise ContractBroken(f"{entry.name}: error {found.error:.1e} at {found.where} on inputs {shapes}")
                done += 1
    return done


def require_equal_copy(entry: Workload, edits: Edits, smaller: nn.Module) -> None:
    """Edits and weights written and read again give the same outputs, bit for bit.

    Raises:
        ContractBroken: they do not.
    """
    with tempfile.TemporaryDirectory(prefix="sartor-") as folder:
        save_weights(smaller, Path(folder) / "model.safetensors")
        copy = apply_edits(entry.build(), Edits.from_json(edits.to_json()))
        load_weights_(copy, Path(folder) / "model.safetensors")
    with torch.no_grad(), borrowed(copy), borrowed(smaller):
        pairs = zip(tensors(call(copy, entry.examples()[0])), tensors(call(smaller, entry.examples()[0])))
        if not all(torch.equal(a, b) for a, b in pairs):
            raise ContractBroken(f"{entry.name}: the network that was saved and loaded computes something else")


__all__ = ["ContractBroken", "WorkloadCheck", "check_workload", "pinned_share", "understood", "unequal_plan"]
