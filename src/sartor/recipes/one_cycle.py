"""Sparsity follows one sigmoid over the whole training, from scratch (One-Cycle Pruning, Hubens et al. 2022).

There the masks are computed anew after every iteration, and a weight that its update revives may return; here at 200
points of the run, and gradients of dead weights are masked, so what has gone stays zero. The sigmoid has the paper's
steepness 14 and offset 5.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Gradual, Recipe, Uniform, Weights

recipe = enter(
    Recipe(
        name="one-cycle",
        source="Hubens et al. 2022 (One-Cycle Pruning), arXiv:2107.02086",
        score=Criterion("l1", normalise="none"),
        cut=Weights(),
        allocate=Uniform(floor=0.0),
        when=Gradual(curve="one-cycle", start=0.0, end=1.0, every=0.005),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Single weights by magnitude, every layer alike, along a sigmoid over the whole training",
)
