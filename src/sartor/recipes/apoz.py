"""Units that are mostly zero go first (Hu et al. 2016)."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="apoz",
        source="Hu et al. 2016 (network trimming), arXiv:1607.03250",
        score=Criterion("apoz"),
    ),
    summary="Share of activations that are not zero, relative to the largest of each place",
)
