"""The saliency with which OTOv2 chooses what to shrink (Chen et al. 2023), used once instead of during training.

The paper normalises over the network and groups by all writers. Here tensors are scored by themselves and ranked.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="oto",
        source="Chen et al. 2023 (OTOv2), arXiv:2303.06862",
        score=Criterion("oto", reduce="producer", normalise="rank"),
    ),
    summary="Cosine to the gradient and average magnitude, ranked within each tensor; without its training",
)
