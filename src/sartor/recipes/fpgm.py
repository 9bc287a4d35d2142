"""Filters near the geometric median of their layer go first (He et al. 2019), one order over the network."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="fpgm",
        source="He et al. 2019, arXiv:1811.00250",
        score=Criterion("fpgm", reduce="producer"),
    ),
    summary="Distance to the other filters, global order scores relative to the largest of each tensor",
)
