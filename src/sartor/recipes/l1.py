"""L1 magnitude of the filters that write a unit, one order over the network (Li et al. 2017)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="l1",
        source="Li et al. 2017, arXiv:1608.08710",
        score=Criterion("l1", reduce="producer"),
    ),
    summary="L1 norm of filters, global order scores relative to the largest of each tensor",
)
