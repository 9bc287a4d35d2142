"""Weights times what they read, added over the readers of a unit; the same share everywhere (Sun et al. 2023)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe, Uniform

recipe = enter(
    Recipe(
        name="wanda",
        source="Sun et al. 2023, arXiv:2306.11695",
        score=Criterion("wanda"),
        allocate=Uniform(),
    ),
    summary="Weights times the norm of what they read, the same share of every group",
)
