"""First-order Taylor importance, compared across the network without normalisation (Molchanov et al. 2019).

The paper removes the least important units until enough is gone. Budgets here are on cost, so importance is taken per
MAC that a unit frees.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="taylor",
        source="Molchanov et al. 2019, arXiv:1906.10771",
        score=Criterion("taylor", normalise="none", per_cost=1.0),
    ),
    summary="First-order change of the loss for each MAC freed, compared across the network without normalisation",
)
