"""The phone book of recipes, and the ways to say one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from sartor.errors import BadInput
from sartor.importance import CRITERIA, ScoreFunction
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

    >>> find_recipe("taylor", floor=0.2).floor, find_recipe("l1*fpgm").criterion
    (0.2, 'l1*fpgm')
    >>> find_recipe(lambda w: w.amax(1)).name
    'custom'
    """
    if isinstance(recipe, str):
        criteria = all(part.strip() in CRITERIA for part in recipe.split("*"))
        found = _of(recipe) if criteria and recipe not in RECIPES else RECIPES[recipe].value
    elif isinstance(recipe, Recipe):
        found = recipe
    elif isinstance(recipe, ScoreFunction) or callable(recipe):
        found = Recipe(criterion=recipe)
    else:
        raise BadInput(f"recipe: expected a name, a Recipe or a function of weights; got {type(recipe).__name__}")
    unknown = [name for name in changes if name not in Recipe.__dataclass_fields__]
    if unknown:
        known = ", ".join(Recipe.__dataclass_fields__)
        raise BadInput(f"recipe field {unknown[0]!r} does not exist; known: {known}")
    return replace(found, **changes) if changes else found  # type: ignore[arg-type]


def _of(criterion: str) -> Recipe:
    source = ", with ".join(CRITERIA[part.strip()].source for part in criterion.split("*"))
    return Recipe(name=criterion, source=source, criterion=criterion)
