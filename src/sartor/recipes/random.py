"""Chance: what every other recipe has to beat."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe, Uniform

recipe = enter(
    Recipe(
        name="random",
        source="baseline; Mittal et al. 2018, arXiv:1801.10447",
        score=Criterion("random", normalise="none"),
        allocate=Uniform(),
    ),
    summary="Random units, the same share everywhere",
)
