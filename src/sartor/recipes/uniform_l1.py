"""L1 magnitude, the same share from every group (Li et al. 2017, without its hand-set ratios)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe, Uniform

recipe = enter(
    Recipe(
        name="uniform-l1",
        source="Li et al. 2017, arXiv:1608.08710",
        score=Criterion("l1", reduce="producer"),
        allocate=Uniform(),
    ),
    summary="L1 norm of filters, the same share everywhere",
)
