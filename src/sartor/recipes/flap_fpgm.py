"""Energy times distinctness: what readers would lose, and how far the filter is from all others."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="flap-fpgm",
        source="An et al. 2023, arXiv:2312.11983, with He et al. 2019, arXiv:1811.00250",
        score=Criterion("flap*fpgm"),
    ),
    summary="Product of flap and fpgm: units that matter and that no other stands in for",
)
