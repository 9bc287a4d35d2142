"""Chance: what every other recipe has to beat."""

from sartor.recipes.registry import enter
from sartor.types import Recipe

recipe = enter(
    Recipe(
        name="random",
        source="baseline; Mittal et al. 2018, arXiv:1801.10447",
        criterion="random",
        normalise="none",
        allocation="uniform",
    ),
    summary="Random units, the same share everywhere",
)
