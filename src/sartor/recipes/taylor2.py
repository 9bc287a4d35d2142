"""Taylor importance to second order, weight by weight, per MAC that a unit frees (Ma et al. 2023)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="taylor2",
        source="Ma et al. 2023 (LLM-Pruner), arXiv:2305.11627",
        score=Criterion("taylor2", normalise="none", per_cost=1.0),
    ),
    summary="Second-order change of the loss, weight by weight, for each MAC freed",
)
