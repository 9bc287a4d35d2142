"""Layer-adaptive magnitude, compared across the network as it stands (Lee et al. 2021)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="lamp",
        source="Lee et al. 2021, arXiv:2010.07611",
        score=Criterion("lamp", reduce="producer", normalise="none"),
    ),
    summary="Squared norms relative to all larger ones of their tensor, one order over the network",
)
