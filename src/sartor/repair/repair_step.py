"""Repair without training: layers refitted, constants folded, batch norms refreshed; each kept only if it helps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from sartor.errors import CannotTrace
from sartor.repair import fold_means_, refit_consumers_, refresh_norm, refresh_norm_if_better
from sartor.repair.gap import output_gap, outputs
from sartor.structure import Graph
from sartor.structure.example import Example
from sartor.types import FoldMeans, Plan, Recipe, RefreshNorms, Ridge

_HELD_OUT = 0.25  # of the calibration batches: judges whether refreshed statistics help
_HELD_OUT_OF_REFIT = 0.1  # fewer, because layers are not refitted again with them


def heal(
    smaller: nn.Module,
    model: nn.Module,
    graph: Graph,
    plan: Plan,
    recipe: Recipe,
    inputs: Sequence[Example],
    *,
    seed: int,
    note: Callable[[str], None],
    tell: Callable[[float | None, str], None],
) -> tuple[nn.Module, dict[str, Any]]:
    """The repaired network, and what was done: "refit", "folded" and "norm", those that were tried.

    Args:
        smaller: cut from `model` by `plan`; may be changed.
        inputs: calibration batches.
        note: told in a sentence when a repair is not possible here.
        tell: progress.
    """
    facts: dict[str, Any] = {}
    if _asks(recipe, Ridge):
        smaller, facts["refit"] = _refitted(smaller, model, graph, plan, inputs, seed, note, tell)
    if _asks(recipe, FoldMeans) and not facts.get("refit", {}).get("kept"):
        facts["folded"] = fold_means_(smaller, model, graph, plan, inputs, samples=recipe.calibration)
    if _asks(recipe, RefreshNorms):
        fit, held = _apart(inputs, _HELD_OUT)
        wanted = outputs(model, held)
        better, report = refresh_norm_if_better(
            smaller, fit, held, lambda m, x: -output_gap(m, x, wanted), samples=recipe.calibration
        )
        facts["norm"] = report
        if report["kept"] and len(inputs) > 1:  # judged on held-out data; the statistics themselves use all
            better = refresh_norm(smaller, inputs, samples=recipe.calibration)
        smaller = better
    return smaller, facts


def _refitted(
    smaller: nn.Module,
    model: nn.Module,
    graph: Graph,
    plan: Plan,
    inputs: Sequence[Example],
    seed: int,
    note: Callable[[str], None],
    tell: Callable[[float | None, str], None],
) -> tuple[nn.Module, dict[str, Any]]:
    fit, held = _apart(inputs, _HELD_OUT_OF_REFIT)
    candidate = copy.deepcopy(smaller)
    try:
        layers = refit_consumers_(candidate, model, graph, plan, fit, seed=seed, tell=tell)
    except CannotTrace as e:
        note(f"layers could not be refitted: {e}")
        return smaller, {"kept": False, "layers": 0}
    wanted = outputs(model, held)
    before, after = output_gap(smaller, held, wanted), output_gap(candidate, held, wanted)
    kept = after < before
    return candidate if kept else smaller, {"kept": kept, "layers": layers, "before": before, "after": after}


def _apart(inputs: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """What repairs, and what judges; one batch alone does both."""
    if len(inputs) < 2:
        return list(inputs), list(inputs)
    held = max(1, round(share * len(inputs)))
    return list(inputs[:-held]), list(inputs[-held:])


def _asks(recipe: Recipe, step: type) -> bool:
    return any(isinstance(s, step) for s in recipe.heal)
