"""Units that fire weakly on calibration inputs go first."""

from sartor.recipes.registry import enter
from sartor.types import Recipe

recipe = enter(
    Recipe(
        name="activation",
        source="Molchanov et al. 2017, arXiv:1611.06440",
        criterion="activation",
        normalise="mean",
    ),
    summary="Mean L2 norm of activations, global order after division by the group mean",
)
