"""Mutual information of a filter's map with the labels."""

from sartor.recipes.registry import enter
from sartor.types import Recipe

recipe = enter(
    Recipe(
        name="hrel",
        source="Sarvani et al. 2022, arXiv:2202.10716",
        criterion="hrel",
        reduce="sum",
        normalise="mean",
    ),
    summary="Mutual information of a filter's map with the labels; needs labels",
)
