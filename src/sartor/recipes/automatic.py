"""The recipe of a run whose user names none: the best that can be done with what was passed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn

from sartor.recipes.registry import find_recipe
from sartor.torch_internals import BatchNorm
from sartor.types import Distil, FineTune, Recipe

STEPS = 1000  # of the optimiser that training is given by default, as far as
EPOCHS = (1, 10)  # ... at least so many and at most so many epochs
UNKNOWN = 3  # epochs of a loader without a length


def automatic_recipe(
    model: nn.Module, train: Iterable[Any] | None, *, calibrated: bool, epochs: int | None = None, classes: bool = True
) -> tuple[Recipe, str]:
    """A recipe, and the sentence that says why.

    With data: selection and repair by `reconstruction`, which needs no labels, and a short distillation from the
    original. With labels to train on: fine-tuning in its place, towards labels and, for classes, the original's
    outputs. Without data: norms of weights.

    Args:
        model: what it is made of decides the optimiser.
        train: labelled batches; None: there are none.
        calibrated: whether there are inputs to score and repair with.
        epochs: of training; None: as many as give about STEPS optimiser steps.
        classes: whether targets are classes, so that the original's outputs teach.

    >>> recipe, why = automatic_recipe(nn.Linear(2, 2), None, calibrated=False)
    >>> recipe.name, why.partition(":")[0]
    ('l1', 'recipe chosen')
    """
    if not calibrated:
        return find_recipe("l1"), (
            "recipe chosen: 'l1', the size of weights alone, since no data was passed. WITHOUT DATA nothing is "
            "repaired and quality can fall a lot: pass train=, or calibration= with a few hundred inputs without labels"
        )
    recipe = find_recipe("reconstruction")
    if train is None or epochs == 0:
        more = "; no labels to train on were passed" if train is None else ", without training, as epochs=0 asks"
        steps = (*recipe.repairs, Distil())
        return replace(recipe, heal=steps), (
            "recipe chosen: 'reconstruction', selection, repair and up to "
            f"{Distil().minutes:g} minutes of distillation from the original, without labels{more}"
        )
    count = _epochs(train) if epochs is None else epochs
    batch_norm = any(isinstance(m, BatchNorm) for m in model.modules())
    how = (
        FineTune(epochs=count, optimizer="sgd", lr=0.01)
        if batch_norm
        else FineTune(epochs=count, optimizer="adamw", lr=3e-4, weight_decay=0.01)
    )
    if not classes:
        how = replace(how, distill=0.0)
    length = f"{count} epoch" + ("" if count == 1 else "s")
    return recipe.with_training(how), (
        f"recipe chosen: 'reconstruction', then {length} of fine-tuning with {how.optimizer}, "
        "since there are labels to train on; epochs=0 leaves training out, epochs=N sets its length"
    )


def _epochs(train: Iterable[Any]) -> int:
    try:
        steps = len(train)  # type: ignore[arg-type]
    except TypeError:
        return UNKNOWN
    return min(max(math.ceil(STEPS / max(steps, 1)), EPOCHS[0]), EPOCHS[1])
