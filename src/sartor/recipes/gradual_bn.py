"""Batch-norm scales, removed along a cubic curve while the network trains.

The scales are those of network slimming (Liu et al. 2017), without its penalty; the curve: Zhu and Gupta 2017.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Gradual, Recipe

recipe = enter(
    Recipe(
        name="gradual-bn",
        source="Liu et al. 2017, arXiv:1708.06519; Zhu and Gupta 2017, arXiv:1710.01878",
        score=Criterion("bn-scale", normalise="none"),
        when=Gradual(curve="cubic"),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Batch-norm scales, more of them at every step of a cubic curve while the network trains",
)
