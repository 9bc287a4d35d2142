"""All weights go at once in the middle of the training: the baseline of schedules (as in Hubens et al. 2022).

Before it the network trains densely, after it the masks stay.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Gradual, Recipe, Uniform, Weights

recipe = enter(
    Recipe(
        name="one-shot-weights",
        source="Baseline of Hubens et al. 2022, arXiv:2107.02086",
        score=Criterion("l1", normalise="none"),
        cut=Weights(),
        allocate=Uniform(floor=0.0),
        when=Gradual(curve="steps", start=0.49, end=0.5, every=1.0),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Single weights by magnitude, every layer alike, all at once in the middle of the training",
)
