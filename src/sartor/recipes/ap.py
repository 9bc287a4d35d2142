"""As lottery tickets, but a tenth of what goes are negative weights that moved least (AP, Liu et al. 2022).

A negative weight on an input that is never negative only lowers a neuron's value; without it fewer neurons are dead.
There 20 % go in a round, 2 % by this rule, and a round may draw new first values; here all rounds start from the same.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Global, Iterative, Recipe, Weights

recipe = enter(
    Recipe(
        name="activate-while-pruning",
        source="Liu et al. 2022 (AP), TMLR",
        score=Criterion("l1", normalise="none"),
        cut=Weights(),
        allocate=Global(floor=0.0),
        when=Iterative(rounds=5, activate=0.1),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Iterative pruning in which some of what goes are negative weights that moved least",
)
