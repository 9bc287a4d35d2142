"""Allocations tried on calibration data, each with refreshed batch norm (Li et al. 2020)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe, Search

recipe = enter(
    Recipe(
        name="eagleeye",
        source="Li et al. 2020, arXiv:2007.02491",
        score=Criterion("flap*fpgm"),
        allocate=Search(tries=60),
    ),
    summary="Sixty allocations tried after re-estimating batch norm, the one nearest to the original stays",
)
