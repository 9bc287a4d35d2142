"""What a choice of units loses beside random choices of as many: one cheap check a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from sartor.activations.grams import GramOptions, Grams
from sartor.activations.readers import Read
from sartor.importance.refit_error import refit_error
from sartor.repair.gap import output_gap, outputs
from sartor.run import stages
from sartor.run.context import Context
from sartor.run.subject import Subject, apart
from sartor.structure import Graph
from sartor.surgery import cut
from sartor.types import SILENT, Plan, Recipe, Ridge

_RIVALS = 3  # random choices
_REFITTED = 128  # samples whose Gram matrices are taken
_REPAIRED = 32  # samples that repair each of the networks, and again as many that judge
_BATCH = 8  # samples a batch, so that repair can hold some of them out
_MOST_INPUTS = 2304  # of a layer whose refit is computed: larger ones take longer than the check is worth
_FEW = GramOptions(rows=10_000, samples=8)


@dataclass(frozen=True)
class BesideChance:
    """The same loss of a plan and of random plans of the same widths; smaller is better."""

    chosen: float
    random: tuple[float, ...]
    refitted: bool  # the error that remains at the readers of cut units once they are refitted; else the distance of
    # the outputs from the original's, relative to their squared size, after the steps of the recipe

    @property
    def worse(self) -> bool:
        """Whether each of the random choices loses less."""
        return all(self.chosen > r for r in self.random)


def beside_chance(subject: Subject, plan: Plan, recipe: Recipe, context: Context) -> BesideChance | None:
    """Compare a plan with random ones of the same widths on a few calibration samples, without labels.

    Where the recipe refits layers, the errors are those of the best refit, in closed form from Gram matrices: scores
    that rely on a refit are judged with it. Otherwise the networks are cut and repaired as the recipe says.

    Returns:
        None where there is nothing to compare: no samples, nothing cut, other units for every head, or no reader of a
        cut group that can be refitted.
    """
    counts = {n: len(k) for n, k in plan.keep.items() if len(k) < subject.graph.groups[n].units}
    if not counts or not subject.samples or plan.fibres:
        return None
    generator = torch.Generator().manual_seed(context.seed)
    plans = [plan, *(_random(subject.graph, plan, generator) for _ in range(_RIVALS))]
    if any(isinstance(step, Ridge) for step in recipe.repairs):
        losses = _refit_errors(subject.first(_REFITTED), counts, plans, context.seed)
        return None if losses is None else BesideChance(losses[0], tuple(losses[1:]), True)
    front, back = apart(subject.first(2 * _REPAIRED).samples, _REPAIRED)
    few = replace(subject, samples=tuple(_small(front)))
    judging = [x for x, _ in back or front]
    originals = outputs(subject.model, judging)
    quiet = replace(context, listener=SILENT)
    gaps = []
    for p in plans:
        network, _ = stages.heal(few, p, cut(subject.model, subject.graph, p), recipe, quiet)
        gaps.append(output_gap(network, judging, originals))
    return BesideChance(gaps[0], tuple(gaps[1:]), False)


def _random(graph: Graph, plan: Plan, generator: torch.Generator) -> Plan:
    """A plan that keeps as many units of every group, drawn at random."""
    drawn = {n: torch.randperm(graph.groups[n].units, generator=generator)[: len(k)] for n, k in plan.keep.items()}
    return Plan({n: tuple(sorted(k.tolist())) for n, k in drawn.items()}, "random", plan.fingerprint)


def _small(samples: list[tuple[object, object]]) -> list[tuple[object, object]]:
    """The samples in small batches."""
    batches = []
    while samples:
        front, samples = apart(samples, _BATCH)
        batches += front
    return batches


def _refit_errors(few: Subject, counts: Mapping[str, int], plans: list[Plan], seed: int) -> list[float] | None:
    """Of each plan, added over the layers that read cut groups, weighted as in the criterion `reconstruction`."""
    grams = Grams(few.graph.only(counts), few.model, few.inputs, options=_FEW, seed=seed)
    reading: dict[int, dict[str, Read]] = {}  # operator -> group -> how it reads the group
    for name in counts:
        places = [s.op for s in grams.sites[name] if s.op in grams.gram]
        for op, read in zip(places, grams.reads(name)):
            if len(read.gram) <= _MOST_INPUTS:
                reading.setdefault(op, {})[name] = read
    if not reading:
        return None
    return [sum(_error(plan, by_group) for by_group in reading.values()) for plan in plans]


def _error(plan: Plan, by_group: Mapping[str, Read]) -> float:
    """At one layer, whose inputs may belong to several groups."""
    removed = []
    for name, read in by_group.items():
        goes = torch.ones(len(read.columns), dtype=torch.bool)
        goes[list(plan.keep[name])] = False
        removed.append(read.columns[goes.to(read.columns.device)].flatten())
    read = next(iter(by_group.values()))
    return read.scale * refit_error(read.gram, read.weight, torch.cat(removed))
