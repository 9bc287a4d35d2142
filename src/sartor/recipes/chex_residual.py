"""Filters that the others of their layer can nearly express go first, one order over the network."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="chex-residual",
        source="Hou et al. 2022 (CHEX), arXiv:2203.15794",
        score=Criterion("chex-residual", reduce="producer"),
    ),
    summary="Distance to the span of the other filters, relative to the largest of each tensor",
)
