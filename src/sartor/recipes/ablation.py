"""Change of the outputs when the unit is silenced, measured."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="ablation",
        source="Molchanov et al. 2017, arXiv:1611.06440",
        score=Criterion("ablation", normalise="macs"),
    ),
    summary="Change of the outputs when the unit is silenced, measured",
)
