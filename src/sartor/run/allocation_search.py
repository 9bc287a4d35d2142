"""Allocations tried on calibration data, each with its batch norms refreshed; the best one stays.

A criterion ranks the units of one group well and those of different groups less so. Here every group's scores get a
factor; factors are varied at random, the network of each variation is cut, its batch-norm statistics are re-estimated,
and its outputs are compared with the original's on samples held out. The closest variation stays. No labels and no
gradients are needed.

Source: Li et al. 2020, "EagleEye", arXiv:2007.02491, evaluates random pruning strategies after re-estimating batch
norm. There they are drawn independently and judged by accuracy; here each varies the best so far, judged by outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sartor.errors import BadInput, BudgetNotMet
from sartor.repair import refresh_norm
from sartor.repair.gap import output_gap, outputs
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.structure.example import Example, batch_of
from sartor.surgery import cut
from sartor.torch_internals import BatchNorm
from sartor.types import Plan, Scores

_SPREAD = 0.7  # of the logarithm of a factor, at the first try; half of it at the last
_SAMPLES = 500  # for the statistics, and again for the comparison


def improved_scores(
    subject: Subject, scores: Scores, plan_of: Callable[[Scores], Plan], tries: int, context: Context
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Scores whose allocation comes closest to the original's outputs, and the tries that improved.

    Args:
        subject: its first calibration batches refresh batch norms, its last ones judge.
        scores: to begin with.
        plan_of: scores -> the plan under the budget.
        tries: variations.
        context: the seed, and the listener.

    Returns:
        (scores, [{"try", "gap"}]), where a gap is the distance from the original's outputs (`output_gap`).

    Raises:
        BadInput: fewer than two calibration batches.
    """
    inputs = subject.inputs
    if len(inputs) < 2:
        raise BadInput(f"search over allocations: expected at least 2 calibration batches; got {len(inputs)}")
    refresh, held_out = _ends(inputs)
    original_outputs = outputs(subject.model, held_out)
    generator = torch.Generator().manual_seed(context.seed)

    def gap(plan: Plan) -> float:
        smaller = cut(subject.model, subject.graph, plan)
        if any(isinstance(m, BatchNorm) for m in smaller.modules()):
            smaller = refresh_norm(smaller, refresh, samples=_SAMPLES)
        return output_gap(smaller, held_out, original_outputs)

    best = {n: s.clone() for n, s in scores.items()}
    plan = plan_of(best)
    least = gap(plan)
    steps = [{"try": 0, "gap": least}]
    for i in range(1, tries + 1):
        spread = _SPREAD * (1 - 0.5 * i / tries)
        varied = vary(best, subject.graph.ties, spread, generator)
        try:
            candidate = plan_of(varied)
        except BudgetNotMet:
            continue
        if candidate.keep == plan.keep:
            continue
        distance = gap(candidate)
        context.listener.tell(f"try {i} of {tries}: {distance:.4f} from the original, best {min(distance, least):.4f}")
        if distance < least:
            best, plan, least = varied, candidate, distance
            steps.append({"try": i, "gap": distance})
    return best, steps


def vary(scores: Scores, ties: Sequence[Sequence[str]], spread: float, generator: torch.Generator) -> dict[str, Tensor]:
    """Every group's scores times a factor exp(spread * normal); tied groups get one factor. Half the groups stay."""
    factor: dict[str, float] = {}
    for name in scores:
        draw, moved = torch.randn((), generator=generator), torch.rand((), generator=generator) < 0.5
        factor[name] = float((spread * draw).exp()) if moved else 1.0
    for tie in ties:
        factor.update({n: factor[tie[0]] for n in tie if n in factor and tie[0] in factor})
    return {n: s * factor[n] for n, s in scores.items()}


def _ends(inputs: Sequence[Example]) -> tuple[list[Example], list[Example]]:
    """Batches from the front and from the back, about as many samples as are needed, none of them in both."""
    half = max(1, len(inputs) // 2)
    return _first(inputs[:half]), _first(list(reversed(inputs[half:])))


def _first(batches: Sequence[Example]) -> list[Example]:
    taken: list[Example] = []
    n = 0
    for x in batches:
        if n >= _SAMPLES:
            break
        taken.append(x)
        n += batch_of(x)
    return taken
