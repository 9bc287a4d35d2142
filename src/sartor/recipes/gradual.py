"""L1 norms, removed along the cubic curve of automated gradual pruning while the network trains (Zhu and Gupta 2017).

The paper prunes single weights; here a unit goes with everything that writes and reads it.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Gradual, Recipe

recipe = enter(
    Recipe(
        name="gradual",
        source="Zhu and Gupta 2017 (automated gradual pruning), arXiv:1710.01878",
        score=Criterion("l1"),
        when=Gradual(curve="cubic"),
        heal=(FineTune(distill=0.0),),
    ),
    summary="L1 norms, more of them at every step of a cubic curve while the network trains",
)
