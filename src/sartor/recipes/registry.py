"""The phone book of recipes, and the ways to say one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from sartor.errors import BadInput
from sartor.importance import CRITERIA, Criterion
from sartor.registry import Registry
from sartor.types import Recipe

RECIPES: Registry[Recipe] = Registry("recipe")


def enter(recipe: Recipe, *, summary: str) -> Recipe:
    """Register a recipe under its own name and source."""
    return RECIPES.add(recipe.name, recipe, source=recipe.source, summary=summary)


def find_recipe(recipe: str | Recipe | Callable[..., Tensor], **changes: object) -> Recipe:
    """A recipe by name, one made by hand, or a criterion (a name or a function) with everything else as usual.

    Args:
        recipe: what is wanted.
        changes: fields to replace.

    Raises:
        UnknownName: neither a recipe nor a criterion is called so.
        BadInput: something else was given, or a field does not exist or is out of range.

    >>> find_recipe("taylor", floor=0.2).floor
    0.2
    >>> find_recipe(lambda w: w.amax(1)).name
    'custom'
    """
    if isinstance(recipe, str):
        found = RECIPES[recipe].value if recipe in RECIPES or recipe not in CRITERIA else _of(recipe)
    elif isinstance(recipe, Recipe):
        found = recipe
    elif isinstance(recipe, Criterion) or callable(recipe):
        found = Recipe(criterion=recipe)
    else:
        raise BadInput(f"recipe: expected a name, a Recipe or a function of weights; got {type(recipe).__name__}")
    unknown = [name for name in changes if name not in Recipe.__dataclass_fields__]
    if unknown:
        known = ", ".join(Recipe.__dataclass_fields__)
        raise BadInput(f"recipe field {unknown[0]!r} does not exist; known: {known}")
    return replace(found, **changes) if changes else found  # type: ignore[arg-type]


def _of(criterion: str) -> Recipe:
    entry = CRITERIA[criterion]
    return Recipe(name=criterion, source=entry.source, criterion=criterion)
