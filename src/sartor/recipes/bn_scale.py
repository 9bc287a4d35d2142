"""Network slimming: one threshold on the scales of all norm layers (Liu et al. 2017), without its L1 training."""

from sartor.recipes.registry import enter
from sartor.types import Recipe

recipe = enter(
    Recipe(
        name="bn-scale",
        source="Liu et al. 2017, arXiv:1708.06519",
        criterion="bn-scale",
        normalise="none",
    ),
    summary="Scales of batch norms, one threshold for the whole network",
)
