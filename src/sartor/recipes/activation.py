"""Units that fire weakly on calibration inputs go first."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="activation",
        source="Molchanov et al. 2017, arXiv:1611.06440",
        score=Criterion("activation"),
    ),
    summary="Mean L2 norm of activations, global order scores relative to the largest of each tensor",
)
