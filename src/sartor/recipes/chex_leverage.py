"""Filters that carry their layer's best subspace stay (Hou et al. 2022), the same share everywhere.

The paper prunes and regrows while it trains, and takes each layer's share from one threshold on batch-norm scales.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe, Uniform

recipe = enter(
    Recipe(
        name="chex-leverage",
        source="Hou et al. 2022 (CHEX), arXiv:2203.15794",
        score=Criterion("chex-leverage", reduce="producer"),
        allocate=Uniform(),
    ),
    summary="Leverage of filters in the best half-dimensional subspace, the same share of every group",
)
