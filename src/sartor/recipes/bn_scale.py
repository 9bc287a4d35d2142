"""Network slimming (Liu et al. 2017) without its sparse training: one threshold on the scales of all norm layers.

The paper compares the scales as they are, after an L1 penalty has made them comparable. Here they are divided by the
largest of their layer first: ordinary training leaves each layer a scale of its own.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe

recipe = enter(
    Recipe(
        name="bn-scale",
        source="Liu et al. 2017, arXiv:1708.06519",
        score=Criterion("bn-scale"),
    ),
    summary="Scales of batch norms relative to their layer, one threshold for the whole network",
)
