"""Widths by measured sensitivity, units by magnitude (Li et al. 2017, with the reading of the curves made exact).

The paper measures accuracy against the share pruned, layer by layer, and chooses shares by hand. Here the loss is the
distance of the outputs from the original's, and the widths of least summed loss for the MACs freed are computed.
"""

from sartor.recipes.registry import enter
from sartor.types import Recipe, Sensitivity

recipe = enter(
    Recipe(
        name="sensitivity",
        source="Li et al. 2017, arXiv:1608.08710",
        score=Sensitivity("l1", normalise="mean", per_cost=1.0),
    ),
    summary="Loss against width measured group by group, without labels; widths of least summed loss per MAC freed",
)
