"""Redundant units shrink to zero in equal steps while the network trains (HESSO, Chen et al. 2024).

The saliency of the recipe "hesso" says once what is redundant; there it is said anew in several periods.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Projected, Recipe, Shrink

recipe = enter(
    Recipe(
        name="hesso-training",
        source="Chen et al. 2024 (HESSO), arXiv:2409.09085",
        score=Criterion("hesso", reduce="producer", normalise="mean"),
        when=Projected(optimizer=Shrink(), start=0.1, end=0.75),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Redundant units shrink to zero in equal steps while the network trains",
)
