"""Filters near the geometric median of their layer go first, the median computed as defined (He et al. 2019)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="median",
        source="He et al. 2019, arXiv:1811.00250",
        score=Criterion("median", reduce="producer"),
    ),
    summary="Distance to the geometric median itself, relative to the largest of each tensor",
)
