"""The smallest weights go, those with the largest gradients come (RigL, Evci et al. 2020).

The dense gradient is read at decisions alone. There the first layer stays dense where densities are uniform; with the
densities of Erdős and Rényi that are used here it does not. Weights that went at a decision do not come back at the
same one.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, ErdosRenyi, FineTune, Recipe, Rewire, Weights
from sartor.types.rewire import Falling

recipe = enter(
    Recipe(
        name="rigl",
        source="Evci et al. 2020 (RigL), arXiv:1911.11134",
        score=Criterion("l1", normalise="none"),
        cut=Weights(),
        allocate=ErdosRenyi(),
        when=Rewire(every=100, until=0.75, exchange=Falling(0.3), grow="gradient"),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Sparse from the start: the smallest weights go, those with the largest gradients come",
)
