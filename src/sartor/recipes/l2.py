"""L2 norm over all tensors a unit lives in, one order over the network (DepGraph's form of magnitude)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="l2",
        source="Fang et al. 2023 (DepGraph), arXiv:2301.12900",
        score=Criterion("l2"),
    ),
    summary="L2 norm summed over all tensors of a unit, global order scores relative to the largest of each tensor",
)
