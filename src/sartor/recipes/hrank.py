"""Units whose feature maps have low rank go first, the same share everywhere (Lin et al. 2020).

The paper sets a share for every layer by hand.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe, Uniform

recipe = enter(
    Recipe(
        name="hrank",
        source="Lin et al. 2020, arXiv:2002.10179",
        score=Criterion("hrank"),
        allocate=Uniform(),
    ),
    summary="Mean rank of feature maps, the same share of every group",
)
