"""Units that descent would shrink go first (Sanh et al. 2020), judged from calibration data alone."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="movement",
        source="Sanh et al. 2020, arXiv:2005.07683",
        score=Criterion("movement"),
    ),
    summary="Signed first-order term of the loss, relative to the largest of each tensor; without training",
)
