"""What a choice of units loses beside random choices of as many: one cheap check a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from sartor.activations.grams import GramOptions, Grams
from sartor.activations.readers import Read
from sartor.importance.removal_error import removal_error
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.structure import Graph
from sartor.types import Plan, Recipe, Ridge

_RIVALS = 3  # random choices
_SAMPLES = 128
_MOST_INPUTS = 2304  # of a layer that is judged: larger ones take longer than the check is worth
_FEW = GramOptions(rows=10_000, samples=8)


@dataclass(frozen=True)
class BesideChance:
    """The error of a plan and of random plans of the same widths at the layers that read the cut groups."""

    chosen: float
    random: tuple[float, ...]
    refitted: bool  # whether these layers are refitted to the inputs that stay

    @property
    def worse(self) -> bool:
        """Whether each of the random choices loses less."""
        return all(self.chosen > r for r in self.random)


def beside_chance(subject: Subject, plan: Plan, recipe: Recipe, context: Context) -> BesideChance | None:
    """Compare a plan with random ones of the same widths on a few calibration samples, without labels.

    Errors are those of the layers that read the cut groups, weighted as in the criterion `reconstruction`, in closed
    form from their Gram matrices: no network is cut. Means count as folded. Where the recipe refits layers, the errors
    are those that remain after the best refit, so that scores which rely on it are judged with it.

    Returns:
        None where there is nothing to compare: no samples, nothing cut, other units for every head, or no convolution
        or linear layer of moderate size that reads a cut group.
    """
    counts = {n: len(k) for n, k in plan.keep.items() if len(k) < subject.graph.groups[n].units}
    if not counts or not subject.samples or plan.fibres:
        return None
    generator = torch.Generator().manual_seed(context.seed)
    plans = [plan, *(_random(subject.graph, plan, generator) for _ in range(_RIVALS))]
    grams = Grams(
        subject.graph.only(counts), subject.model, subject.first(_SAMPLES).inputs, options=_FEW, seed=context.seed
    )
    reading: dict[int, dict[str, Read]] = {}  # operator -> group -> how it reads the group
    for name in counts:
        places = [s.op for s in grams.sites[name] if s.op in grams.gram]
        for op, read in zip(places, grams.reads(name)):
            if len(read.gram) <= _MOST_INPUTS:
                reading.setdefault(op, {})[name] = read
    if not reading:
        return None
    refit = any(isinstance(step, Ridge) for step in recipe.repairs)
    chosen, *random = [sum(_error(p, by_group, refit) for by_group in reading.values()) for p in plans]
    return BesideChance(chosen, tuple(random), refit)


def _random(graph: Graph, plan: Plan, generator: torch.Generator) -> Plan:
    """A plan that keeps as many units of every group, drawn at random."""
    drawn = {n: torch.randperm(graph.groups[n].units, generator=generator)[: len(k)] for n, k in plan.keep.items()}
    return Plan({n: tuple(sorted(k.tolist())) for n, k in drawn.items()}, "random", plan.fingerprint)


def _error(plan: Plan, by_group: Mapping[str, Read], refit: bool) -> float:
    """At one layer, whose inputs may belong to several groups."""
    removed = []
    for name, read in by_group.items():
        goes = torch.ones(len(read.columns), dtype=torch.bool)
        goes[list(plan.keep[name])] = False
        removed.append(read.columns[goes.to(read.columns.device)].flatten())
    read = next(iter(by_group.values()))
    return read.scale * removal_error(read.gram, read.weight, torch.cat(removed), refit=refit)
