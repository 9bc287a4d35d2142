"""Redundant units are projected onto zero by half-spaces while the network trains (OTOv2's DHSPG, Chen et al. 2023).

The saliency of the recipe "oto" says once what is redundant. There the target is a share of the groups, and groups are
ranked over the whole network; here what is redundant follows from the budget, by ranks within each tensor.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, HalfSpace, Projected, Recipe

recipe = enter(
    Recipe(
        name="oto-training",
        source="Chen et al. 2023 (OTOv2), arXiv:2303.06862",
        score=Criterion("oto", reduce="producer", normalise="rank"),
        when=Projected(optimizer=HalfSpace(), start=0.1, end=0.75),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Half-space projection of redundant units while the network trains",
)
