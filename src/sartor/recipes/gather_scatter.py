"""Weights in packs that a processor gathers without bank conflicts: GS(16, 4), with the best support in every group.

Published with a greedy projection inside ADMM; here the support is optimal and the network is pruned in steps.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Gradual, Recipe, Uniform, Weights
from sartor.types.weights import GatherScatter

recipe = enter(
    Recipe(
        name="gather-scatter",
        source="Sun et al. 2021 (gather-scatter patterns), arXiv:2112.10898",
        score=Criterion("l1", normalise="none"),
        cut=Weights(pattern=GatherScatter(16, 4)),
        allocate=Uniform(floor=0.0),
        when=Gradual(curve="steps", start=0.2, end=0.6, every=0.1),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Packs of 16 weights in different memory banks, by an optimal transport of magnitudes",
)
