"""Sparse training on the edge with elastic mutation (MEST EM, Yuan et al. 2021).

Shares of the live weights that are exchanged are those of 90 % sparsity, where 92, 91 and 90 % are pruned in three
stages. There the score may add the gradient's magnitude; the published scripts give it the weight 0, as here.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Recipe, Rewire, Uniform, Weights
from sartor.types.rewire import Staged

recipe = enter(
    Recipe(
        name="mest",
        source="Yuan et al. 2021 (MEST, EM), arXiv:2110.14032",
        score=Criterion("l1", normalise="none"),
        cut=Weights(first=False, last=False),
        allocate=Uniform(floor=0.0),
        when=Rewire(every=0.03125, until=0.75, exchange=Staged((0.5625, 0.75), (0.2, 0.1, 0.0)), grow="random"),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Sparse from the start: the smallest weights go, random ones come, less in every stage",
)
