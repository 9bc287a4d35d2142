"""Mutual information of a filter's map with the labels."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="hrel",
        source="Sarvani et al. 2022, arXiv:2202.10716",
        score=Criterion("hrel", normalise="mean"),
    ),
    summary="Mutual information of a filter's map with the labels; needs labels",
)
