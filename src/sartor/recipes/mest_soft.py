"""Elastic mutation with a soft memory bound: more weights are live than the budget says, until the end (MEST EM&S).

Of 90 % sparsity the published stages have 85, 87.5 and 90 %: half as many weights more than the
budget allows, then a quarter, then none.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Recipe, Rewire, Uniform, Weights
from sartor.types.rewire import Staged

recipe = enter(
    Recipe(
        name="mest-soft",
        source="Yuan et al. 2021 (MEST, EM&S), arXiv:2110.14032",
        score=Criterion("l1", normalise="none"),
        cut=Weights(first=False, last=False),
        allocate=Uniform(floor=0.0),
        when=Rewire(
            every=0.03125, until=0.75, exchange=Staged((0.5625, 0.75), (0.5, 0.25, 0.0)), grow="random", beyond=True
        ),
        heal=(FineTune(distill=0.0),),
    ),
    summary="As mest, with half as many weights beyond the budget at first",
)
