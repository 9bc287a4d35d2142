"""Fluctuation of what readers see, relative to the strongest unit of each group (An et al. 2023)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="flap",
        source="An et al. 2023, arXiv:2312.11983",
        score=Criterion("flap"),
    ),
    summary="Energy the readers of a unit would lose, means given back: strong without any training",
)
