"""Optimal brain damage with the Fisher diagonal, per MAC that a unit frees (Theis et al. 2018)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="fisher",
        source="Theis et al. 2018, arXiv:1801.05787",
        score=Criterion("fisher", normalise="none", per_cost=1.0),
    ),
    summary="Fisher diagonal times squared weights for each MAC freed, compared without normalisation",
)
