"""Sparse evolutionary training: the smallest weights go, random ones come (SET, Mocanu et al. 2018).

There the smallest positive and the largest negative weights go, here the smallest magnitudes; and weights that went
at a decision do not come back at the same one.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, ErdosRenyi, FineTune, Recipe, Rewire, Weights
from sartor.types.rewire import Constant

recipe = enter(
    Recipe(
        name="set",
        source="Mocanu et al. 2018 (SET), arXiv:1707.04780",
        score=Criterion("l1", normalise="none"),
        cut=Weights(),
        allocate=ErdosRenyi(kernel=False),
        when=Rewire(every=0.01, until=0.95, exchange=Constant(0.3), grow="random"),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Sparse from the start: the smallest weights go, random ones come",
)
