"""Channel independence: nuclear norm lost with the channel."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="chip",
        source="Sui et al. 2021, arXiv:2110.13981",
        score=Criterion("chip", normalise="mean"),
    ),
    summary="Channel independence: nuclear norm lost with the channel",
)
