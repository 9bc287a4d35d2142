"""The saliency mixture of HESSO (Chen et al. 2024), used once instead of during training."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="hesso",
        source="Chen et al. 2024 (HESSO), arXiv:2409.09085",
        score=Criterion("hesso", reduce="producer", normalise="mean"),
    ),
    summary="Five saliencies of weights and gradients in equal parts; without its training",
)
