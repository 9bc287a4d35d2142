"""What must hold of an optimizer, a recipe and a number of steps before a session begins."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from sartor.errors import BadInput
from sartor.types import Recipe


def innermost_optimizer(optimizer: Any) -> Optimizer:
    """The optimizer inside wrappers that hold one, as accelerate's does.

    Raises:
        BadInput: there is none.
    """
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    if not isinstance(optimizer, Optimizer):
        raise BadInput(f"session, optimizer: expected a torch.optim.Optimizer; got {type(optimizer).__name__}")
    return optimizer


def check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    """Check that an optimizer changes this model.

    Raises:
        BadInput: it holds none of its parameters.
    """
    mine = {id(p) for p in model.parameters()}
    if not any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
        raise BadInput(
            "session, optimizer: it holds none of the model's parameters; make it after the model was moved or wrapped"
        )


def check_recipe(recipe: Recipe) -> None:
    """Check that a recipe prunes while a network trains, and can be carried out by masks.

    Raises:
        BadInput: it cannot; says which field is in the way.
    """
    if recipe.when.kind == "one-shot":
        raise BadInput(
            f"recipe {recipe.name!r} cuts once (when='one-shot'), and a session prunes while training: choose a recipe "
            "with another schedule, such as 'chex' or 'gradual', or call sartor.fit"
        )
    if recipe.allocate.kind == "search":
        raise BadInput(f"recipe {recipe.name!r}: a search over allocations needs a network that does not change")
    if recipe.score.kind == "gates":
        raise BadInput(f"recipe {recipe.name!r}: gates are trained on a network that does not change")
    if recipe.cut.kind == "axes" and recipe.cut.fibres:
        raise BadInput(f"recipe {recipe.name!r}: fibres cannot be masked while a network trains; set cut.fibres=false")


def checked_steps(steps: Any) -> int:
    """The number of steps of a run.

    Raises:
        BadInput: not a whole number of at least 1.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise BadInput(f"session, steps: expected the number of optimizer steps of the run, at least 1; got {steps!r}")
    return steps


__all__ = ["check_optimizer", "check_recipe", "checked_steps", "innermost_optimizer"]
