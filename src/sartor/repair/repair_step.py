"""Repair without training: the steps of a recipe, one after the other, each kept only if it helps."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from sartor.errors import BadInput, CannotTrace
from sartor.repair import RidgeOptions, fold_means_, refit_consumers_, refresh_norm, refresh_norm_if_better
from sartor.repair.clip_activations import clipped
from sartor.repair.compensation import compensate_
from sartor.repair.distil import Samples, distilled, samples_apart
from sartor.repair.folding import fold_units_
from sartor.repair.gap import output_gap, outputs
from sartor.repair.original import Original
from sartor.structure.example import Example, batch_of
from sartor.types import SILENT, Calibration, ClipActivations, Distil, FoldMeans, Listener, RefreshNorms, Ridge

_HELD_OUT = 0.25  # of the calibration batches: judges whether refreshed statistics help
_HELD_OUT_OF_REFIT = 0.1  # fewer, because layers are not refitted again with them
_FEWEST = 16  # calibration samples with which a network is distilled


def heal(
    smaller: nn.Module,
    original: Original,
    steps: Sequence[object],
    calibration: Calibration,
    listener: Listener = SILENT,
) -> tuple[nn.Module, dict[str, Any]]:
    """The repaired network, and what was done: those of "refit", "folded", "norm", "distil", "clipped" that were tried.

    Args:
        smaller: cut from the original; may be changed.
        original: the network before the cut, and the cut.
        steps: `Ridge()`, `FoldMeans()`, `RefreshNorms()`, `Distil()` and `ClipActivations()` of `sartor.types`,
            taken in this order.
        calibration: pairs (inputs, targets), on the model's device; targets are not read. `samples` bounds what means
            and statistics are taken from; `seed` draws the positions that a refit reads and the order of a
            distillation.
        listener: progress; noted where a repair is not possible.

    Raises:
        BadInput: a step that is not one of these.
    """
    inputs: list[Example] = [x for x, _ in calibration.batches or ()]
    facts: dict[str, Any] = {}
    for step in steps:
        match step:
            case Ridge():
                smaller, facts["refit"] = _refitted(smaller, original, inputs, step, calibration.seed, listener)
            case FoldMeans() if facts.get("refit", {}).get("kept"):
                pass  # the refit has done what folding does
            case FoldMeans():
                facts["folded"] = fold_means_(smaller, original, inputs, samples=calibration.samples)
            case RefreshNorms():
                smaller, facts["norm"] = _refreshed(smaller, original, inputs, calibration.samples)
            case Distil():
                smaller, facts["distil"] = _distilled(smaller, original, inputs, step, calibration.seed, listener)
            case ClipActivations():
                smaller, facts["clipped"] = clipped(smaller, original.graph, inputs, step.margin, listener)
            case _:
                known = "ridge, fold-means, refresh-norms, distil and clip-activations"
                raise BadInput(f"repair: expected the steps {known}; got {step!r}")
    return smaller, facts


def _refitted(
    smaller: nn.Module, original: Original, inputs: Sequence[Example], how: Ridge, seed: int, listener: Listener
) -> tuple[nn.Module, dict[str, Any]]:
    fit, held = _apart(inputs, _HELD_OUT_OF_REFIT)
    candidate = copy.deepcopy(smaller)
    try:
        layers = _variant(candidate, original, fit, how, seed, listener)
    except CannotTrace as e:
        listener.note(f"layers could not be refitted: {e}")
        return smaller, {"kept": False, "layers": 0}
    targets = outputs(original.model, held)
    before, after = output_gap(smaller, held, targets), output_gap(candidate, held, targets)
    kept = after < before
    return candidate if kept else smaller, {"kept": kept, "layers": layers, "before": before, "after": after}


def _variant(
    candidate: nn.Module, original: Original, fit: Sequence[Example], how: Ridge, seed: int, listener: Listener
) -> int:
    """Repair in place; returns how many layers, or groups of units, were changed."""
    match how.variant:
        case "grail":
            return compensate_(candidate, original, fit, seed=seed)
        case "folding":
            return fold_units_(candidate, original)
        case "refit":
            options = RidgeOptions(logits=how.logits)
            return refit_consumers_(candidate, original, fit, options=options, seed=seed, listener=listener)


def _refreshed(
    smaller: nn.Module, original: Original, inputs: Sequence[Example], samples: int
) -> tuple[nn.Module, dict[str, Any]]:
    fit, held = _apart(inputs, _HELD_OUT)
    targets = outputs(original.model, held)
    better, report = refresh_norm_if_better(
        smaller, fit, held, lambda m, x: -output_gap(m, x, targets), samples=samples
    )
    if report["kept"] and len(inputs) > 1:  # judged on held-out data; the statistics themselves use all
        better = refresh_norm(smaller, inputs, samples=samples)
    return better, report


def _distilled(
    smaller: nn.Module, original: Original, inputs: Sequence[Example], how: Distil, seed: int, listener: Listener
) -> tuple[nn.Module, dict[str, Any]]:
    if sum(map(batch_of, inputs)) < _FEWEST:
        listener.note(f"distillation: left out, since there are fewer than {_FEWEST} calibration samples")
        return smaller, {"kept": False, "steps": 0}
    split = _apart if len(inputs) > 1 else samples_apart  # those that judged a refit judge here too
    samples = Samples(*split(inputs, _HELD_OUT_OF_REFIT))
    return distilled(smaller, original, samples, how, seed=seed, listener=listener)


def _apart(inputs: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """The batches that repair, and those that judge; a single batch does both."""
    if len(inputs) < 2:
        return list(inputs), list(inputs)
    held = max(1, round(share * len(inputs)))
    return list(inputs[:-held]), list(inputs[-held:])
