"""Single weights go along a cubic curve while the network trains (automated gradual pruning, Zhu and Gupta 2017).

Every layer has the same sparsity, as there. What has gone stays zero.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Gradual, Recipe, Uniform, Weights

recipe = enter(
    Recipe(
        name="gradual-weights",
        source="Zhu and Gupta 2017, arXiv:1710.01878",
        score=Criterion("l1", normalise="none"),
        cut=Weights(),
        allocate=Uniform(floor=0.0),
        when=Gradual(curve="cubic", start=0.2, end=0.75),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Single weights by magnitude, every layer alike, along a cubic curve",
)
