"""The pipeline, written once: every stage is a function from values to values.

    model + example --understand--> Subject --score--> Scores --search, decide--> Decision --apply--> network + Verdict
        --heal, train--> network --judge--> Quality; observe: latency on targets

`fit`, the frontier, the studies and the benchmarks are compositions of these. Allocators, the proof and the repair are
called here and nowhere else.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from sartor.allocate import Cap, Step, allocator_of
from sartor.borrow import device_of
from sartor.cost import count
from sartor.errors import BadInput, BudgetNotMet, NothingToDo
from sartor.export.delivery import Delivery
from sartor.importance import score as unit_scores
from sartor.learn import CurveOptions, SoftBudget, learn_gates, sensitivity_scores
from sartor.measure import compare_afresh, compare_artefacts, prepare
from sartor.repair import Original
from sartor.repair.gap import outputs
from sartor.repair.repair_step import heal as repair
from sartor.run.allocation_search import improved_scores
from sartor.run.caps import counted_caps, share_caps
from sartor.run.conditions import check_one_shot
from sartor.run.context import Context
from sartor.run.latency_search import meet_latency
from sartor.run.per_head_plans import with_fibres
from sartor.run.subject import Subject, apart
from sartor.structure import Graph, record_variant, trace
from sartor.structure.example import Example, batch_of, map_tensors, to_device, with_batch
from sartor.structure.graph import Resolved
from sartor.structure.other_inputs import other_inputs, several_examples
from sartor.surgery import Edits, apply_edits, edits_for, probe, prove
from sartor.surgery.delivered import check_layout, layout
from sartor.surgery.masked import prove_masked
from sartor.surgery.proof import ProofInputs
from sartor.train import History, TrainingSetup, fine_tune
from sartor.train.batch import first_samples
from sartor.train.evaluate import evaluator
from sartor.types import (
    Axes,
    Bounds,
    Comparison,
    Criterion,
    Data,
    Effort,
    ErdosRenyi,
    Gates,
    Judge,
    Plan,
    Recipe,
    Rewrite,
    Scores,
    Search,
    Sensitivity,
    Target,
    Verdict,
)
from sartor.wrappers import unwrapped

_USED = 0.95  # share of a limit that a plan of aligned widths has to use
_HELD_OUT = 0.2  # of all calibration samples of a study: they judge plans, and nothing else


@dataclass(frozen=True)
class Decision:
    """A plan and how it was found."""

    plan: Plan
    trail: tuple[Step, ...] = ()  # rounds of the latency search: share of the MACs, measured ratio


@dataclass(frozen=True)
class Cut:
    """A network that was cut, what was done to the original, and whether that was exact."""

    network: nn.Module
    plan: Plan
    edits: Edits
    verdict: Verdict
    layout: Mapping[str, Any]  # shapes, attributes and classes of the network that was proved


class Quality(NamedTuple):
    """Of one network; larger is better, None: not judged."""

    val: float | None
    test: float | None


def understand(
    model: nn.Module, example: Example, device: torch.device | str | None = None, rewrite: Rewrite = "free",
    *, units: bool = True,
) -> Subject:  # fmt: skip
    """Trace the network, find the groups that can be cut in its class, count its costs.

    Args:
        model: borrowed, without its wrappers; a copy is taken if it lies on another device than `device`.
        example: inputs that the network can be called with; one sample is traced. A list holds several examples if the
            network takes each of them alone (see `several_examples`).
        device: where to compute; None: where the model lies.
        rewrite: which forwards may be rewritten; see `Axes`.
        units: whether units are to be cut; if not, nobody looks what this class can realise.

    Raises:
        BadInput: nothing can be cut, and units are to be; says why.
        CannotTrace: the forward cannot be followed.
    """
    model = unwrapped(model).module
    where = torch.device(device) if device is not None else device_of(model)
    if where != device_of(model):
        model = copy.deepcopy(model).to(where)
    first, given, reading = several_examples(model, example)
    prepared = [to_device(map_tensors(lambda t: t.detach(), with_batch(x, 1)), where) for x in (first, *given)]
    example = prepared[0]
    recorded = [(x, record_variant(model, x)) for x in (*prepared[1:], *other_inputs(model, example))]
    traced = trace(model, example, [r for _, r in recorded if r is not None])
    graph = probe(model, traced, rewrite) if units else traced
    if units and not graph.groups:
        reasons = "; ".join(dict.fromkeys(f.reason for f in graph.frozen[:3]))
        raise BadInput(f"nothing in this model can be cut: {reasons or 'it has no parameters in use'}")
    others = tuple(x for x, recording in recorded if recording is not None)
    return Subject(model, example, graph, count(graph), len(traced.groups) - len(graph.groups), others, reading)


def with_samples(subject: Subject, source: Iterable[Any] | None, samples: int) -> Subject:
    """The subject with its calibration batches: the first `samples` samples of a source."""
    if source is None:
        return subject
    where = device_of(subject.model)
    return replace(subject, samples=tuple(to_device(b, where) for b in first_samples(source, samples)))


def with_held_out(subject: Subject, source: Iterable[Any] | None, samples: int) -> Subject:
    """The subject with calibration batches, and with others that judge plans.

    Args:
        source: batches (inputs, targets).
        samples: for scores and repairs, at most. A quarter as many are taken after them and held out; of a source with
            too few samples, a fifth is held out.

    Raises:
        BadInput: fewer than two samples, or no source.
    """
    wished = samples + max(1, round(samples * _HELD_OUT / (1 - _HELD_OUT)))
    whole = with_samples(subject, source, wished)
    total = sum(map(batch_of, whole.inputs))
    if total < 2:
        raise BadInput(f"calibration: expected at least 2 samples, one of them to judge by; got {total}")
    front, back = apart(whole.samples, min(samples, total - max(1, round(_HELD_OUT * total))))
    held = tuple(x for x, _ in back)
    return replace(subject, samples=tuple(front), held_out=held, original_outputs=tuple(outputs(subject.model, held)))


def score(subject: Subject, recipe: Recipe, bounds: Bounds, context: Context) -> Scores:
    """One score for every unit that the recipe may cut; larger = keep.

    Raises:
        BadInput: the recipe needs calibration data and there are none, or it trains gates and the budget says no share
            of the MACs.
    """
    check_one_shot(recipe)
    graph, how = subject.graph, recipe.score
    if not isinstance(how, Criterion) and not subject.samples:
        raise BadInput(f"recipe {recipe.name!r} needs calibration data; pass train=... or calibration=...")
    calibration, listener = subject.calibration(recipe.calibration, context), context.listener
    if isinstance(how, Gates):
        share = bounds.macs_share
        if share is None:
            raise BadInput("gates are trained towards a share of the MACs: add a limit on them, such as 'macs<=50%'")
        return learn_gates(graph, subject.model, calibration, SoftBudget(share), options=how, listener=listener)
    scores = unit_scores(
        graph, subject.model, how.criterion, calibration=calibration, scaling=how.scaling, listener=listener
    )
    if isinstance(how, Sensitivity):
        options = CurveOptions(per_cost=how.per_cost)
        return sensitivity_scores(graph, subject.model, scores, subject.inputs, options=options, listener=listener)
    return scores


def search(
    subject: Subject, recipe: Recipe, scores: Scores, bounds: Bounds, context: Context
) -> tuple[Scores, list[dict[str, Any]]]:
    """Scores whose allocation comes closest to the original's outputs, and the tries that improved.

    A relative limit on latency counts as one on MACs here. Scores stay as they are if the recipe does not search.

    Raises:
        BadInput: fewer than two calibration batches, or a budget of absolute latencies only.
    """
    if not isinstance(recipe.allocate, Search):
        return scores, []
    caps = share_caps(subject.graph, bounds)
    if not caps:
        raise BadInput("search over allocations: expected a counted or a relative limit; got absolute latencies only")
    plan_of = lambda varied: allocate(subject.graph, varied, recipe, caps)
    return improved_scores(subject, scores, plan_of, recipe.allocate.tries, context)


def allocate(graph: Graph, scores: Scores, recipe: Recipe, caps: Sequence[Cap], round_to: int | None = None) -> Plan:
    """The plan that keeps most score under caps on cost.

    Args:
        graph: with the groups that may be cut.
        scores: of every group.
        recipe: its `allocate` says how.
        caps: costs and what they may be at most.
        round_to: kept counts are multiples of it; None: as the recipe says. If that is None too, they are multiples of
            `alignment`; single units where these cannot meet the caps, or leave more than a twentieth of them unused.

    Raises:
        BudgetNotMet: the caps cannot be met; `plan` is the smallest plan.
        NothingToDo: the original meets them.
    """
    how = recipe.allocation
    assert not isinstance(how, ErdosRenyi)  # a recipe that cuts units has none
    units = {n: g.units for n, g in graph.groups.items() if n in scores}
    step = how.round_to if round_to is None else round_to
    allocator = partial(allocator_of(how).value, scores, caps, units, ties=graph.ties, floor=how.floor)
    try:
        try:
            keep = allocator(round_to=step)
        except BudgetNotMet:
            if step is not None:
                raise
            keep = allocator(round_to=1)
        else:
            counts = {n: len(k) for n, k in keep.items()}
            if step is None and all(c.cost(counts) < _USED * c.at_most for c in caps):
                keep = allocator(round_to=1)
    except BudgetNotMet as e:
        if isinstance(e.plan, dict):
            e.plan = Plan(e.plan, recipe.name, graph.fingerprint)
        raise
    return Plan(keep, recipe.name, graph.fingerprint)


def decide(subject: Subject, recipe: Recipe, scores: Scores, bounds: Bounds, context: Context) -> Decision:
    """The plan that keeps most score within the budget: counted limits exactly, latency by measuring.

    Raises:
        BudgetNotMet: a limit cannot be met; says the lowest cost that can be reached. `plan` is the smallest plan
            tried.
        NothingToDo: the original already meets the budget.
    """
    check_one_shot(recipe)
    graph, counted = subject.graph, counted_caps(subject.graph, bounds)

    def plan_under(caps: Sequence[Cap], round_to: int | None = None) -> Plan:
        return allocate(graph, scores, recipe, [*counted, *caps], round_to)

    if bounds.timed:
        plan, trail = meet_latency(subject, recipe.allocation, bounds, plan_under, context)
    else:
        plan, trail = plan_under([]), ()
    if isinstance(recipe.cut, Axes) and recipe.cut.fibres:
        plan = with_fibres(subject, plan, recipe, context)
    return Decision(plan, trail)


def decide_towards(
    subject: Subject, recipe: Recipe, scores: Scores, bounds: Bounds, strength: float, context: Context
) -> Plan:
    """The plan on the way to a budget, for a network that is pruned step by step.

    Args:
        strength: in [0, 1]. Every limit is loosened to original - strength * (original - limit); a relative limit on
            latency counts as one on MACs. From 1 on the budget itself is met, as by `decide`.

    Raises:
        BudgetNotMet: as `decide`.
        BadInput: the budget is absolute latencies only, and strength is below 1.
    """
    if strength >= 1:
        return decide(subject, recipe, scores, bounds, context).plan
    caps = share_caps(subject.graph, bounds)
    if not caps:
        raise BadInput("pruning while training: expected a counted or a relative limit; got absolute latencies only")
    loosened = [c._replace(at_most=c.cost({}) - strength * (c.cost({}) - c.at_most)) for c in caps]
    try:
        return allocate(subject.graph, scores, recipe, loosened)
    except NothingToDo:
        return Plan({}, recipe.name, subject.graph.fingerprint)


def apply(subject: Subject, plan: Plan, masks: Mapping[str, Tensor] | None = None) -> Cut:
    """Cut the network physically, and prove that the cut network computes what the zero-masked original computes.

    Args:
        plan: what stays.
        masks: of weights, in a network whose single weights are masked: nothing is cut, and the proof says that dead
            weights are zero and everything else is as it was trained.

    Raises:
        CannotCut: the forward states a size that cannot be changed.
        ProofFailed: the two differ; names the group.
    """
    if masks:
        network = apply_edits(subject.model, Edits({}, (), {}))
        verdict = prove_masked(subject.model, subject.graph, masks, subject.proof_inputs(), network)
        return Cut(network, plan, Edits({}, (), {}), verdict, layout(network))
    resolved = subject.graph.resolve(plan)
    edits = edits_for(subject.model, subject.graph, resolved)
    network = apply_edits(subject.model, edits)
    verdict = verify(subject, resolved, network)
    return Cut(network, plan, edits, verdict, layout(network))


def verify_layout(cut: Cut, network: nn.Module) -> None:
    """Check that repair and training left shapes, attributes and classes as they were when the cut was proved.

    Raises:
        ProofFailed: names what changed.
    """
    check_layout(cut.layout, network)


def verify(
    subject: Subject,
    plan: Plan | Resolved,
    network: nn.Module,
    *,
    inputs: Example | None = None,
    tolerance: float = 1e-4,
) -> Verdict:
    """The proof of a cut network, before anything is repaired.

    Args:
        network: cut by `plan`.
        inputs: real inputs; None: a few calibration samples.
        tolerance: largest error allowed, relative to the largest output.

    Raises:
        ProofFailed: the network differs from the zero-masked original; names the group.
    """
    given = ProofInputs(subject.proof_inputs() if inputs is None else inputs, subject.others)
    return prove(subject.model, subject.graph, plan, given, tolerance=tolerance, smaller=network)


def heal(
    subject: Subject, plan: Plan, network: nn.Module, recipe: Recipe, context: Context
) -> tuple[nn.Module, dict[str, Any]]:
    """The network repaired without training, and what was done; as it is without calibration data or steps."""
    if not subject.samples or not recipe.repairs:
        return network, {}
    original = Original(subject.model, subject.graph, plan)
    calibration = subject.calibration(recipe.calibration, context)
    return repair(network, original, recipe.repairs, calibration, context.listener)


def train(
    subject: Subject, network: nn.Module, recipe: Recipe, data: Data, context: Context,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
) -> History | None:  # fmt: skip
    """Fine-tune the network in place with the original as teacher; None: the recipe trains for no epochs.

    It is continued from the last of `context.checkpoints`, if there are any.

    Raises:
        BadInput: there is nothing to train on.
        TrainingDiverged: the loss is not finite.
    """
    options = recipe.training
    if not options.epochs:
        return None
    if data.train is None:
        raise BadInput(f"recipe {recipe.name!r} trains for {options.epochs} epochs; pass train=...")
    setup = TrainingSetup(options, subject.model, context.seed, context.checkpoints)
    return fine_tune(
        network.to(device_of(subject.model)), data, setup, judge=context.judge, listener=context.listener,
        on_epoch=on_epoch,
    )  # fmt: skip


def judge(subject: Subject, network: nn.Module, data: Data, judge: Judge) -> Quality:
    """Quality on the validation part, and the judge's measure on the test part; None: there is nothing to judge by."""
    device = device_of(subject.model)
    evaluate = evaluator(data, judge, device)
    reported = evaluator(Data(val=data.test), replace(judge, evaluate=None), device)
    return Quality(
        None if evaluate is None else float(evaluate(network)), None if reported is None else float(reported(network))
    )


def observe(subject: Subject, network: nn.Module, target: Target | str, effort: Effort) -> Comparison:
    """The latency of a network on a target through the quick exporter, measured in turns with the original's.

    For tables of many networks; the verdict of a run times the files that are delivered, see `deliver`.
    """
    return compare_afresh(
        lambda: prepare(subject.model, subject.example, target),
        lambda: prepare(network, subject.example, target),
        effort,
    )


def deliver(network: nn.Module, target: Target | str, effort: Effort, delivery: Delivery) -> Comparison:
    """The latency of the file that is delivered, measured in turns with the original's, which was exported alike.

    Raises:
        SartorError: the network cannot be exported, or does not run on the target.
    """
    original, fitted = delivery.original_on(target), delivery.fitted_on(network, target)
    return compare_artefacts(original, fitted, delivery.example, effort)


__all__ = [
    "Context", "Cut", "Decision", "Quality", "allocate", "apply", "decide", "decide_towards", "deliver", "evaluator",
    "heal", "judge", "observe", "score", "search", "train", "understand", "verify", "verify_layout", "with_held_out",
    "with_samples",
]  # fmt: skip
