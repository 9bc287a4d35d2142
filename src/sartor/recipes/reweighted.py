"""A reweighted penalty drives small weights to zero, then the smallest are removed (unified reweighted regularisation).

There the sparsity follows from the strength of the penalty; here the budget is met, and the densities of layers follow.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Global, Recipe, Reweighted, Weights

recipe = enter(
    Recipe(
        name="reweighted",
        source="Zhang et al. 2020, arXiv:2004.05531",
        score=Criterion("l1", normalise="none"),
        cut=Weights(),
        allocate=Global(floor=0.0),
        when=Reweighted(),
        heal=(FineTune(distill=0.0),),
    ),
    summary="A penalty 1 / (norm^2 + epsilon), refreshed, then one threshold on magnitudes",
)
