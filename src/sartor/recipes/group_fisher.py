"""Fisher information of a gate at every unit, per MAC that it frees (Liu et al. 2021).

The paper divides by the memory freed, and removes one unit after the other with training in between.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="group-fisher",
        source="Liu et al. 2021, arXiv:2108.00708",
        score=Criterion("group-fisher", normalise="none", per_cost=1.0),
    ),
    summary="Fisher information of each unit's gate for each MAC freed, compared without normalisation",
)
