"""Small units decay faster than large ones while the network trains, then the smallest go (DepGraph, Fang et al. 2023).

There the training with the penalty, the cut and the fine-tuning are three runs; here they are parts of one.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Decaying, FineTune, Recipe

recipe = enter(
    Recipe(
        name="group-sparse",
        source="Fang et al. 2023 (DepGraph), arXiv:2301.12900",
        score=Criterion("l2"),
        when=Decaying(end=0.6),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Decay that is stronger for small units while the network trains, then the smallest L2 norms go",
)
