"""Give up what the others can stand in for, then refit every reader: minutes, no labels, no training."""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FoldMeans, Global, Recipe, RefreshNorms, Ridge

recipe = enter(
    Recipe(
        name="reconstruction",
        source="He et al. 2017, arXiv:1707.06168 (selection and least squares), with Hassibi and Stork 1993",
        score=Criterion("reconstruction", normalise="macs"),
        allocate=Global(floor=0.05),
        heal=(Ridge(), FoldMeans(), RefreshNorms()),
    ),
    summary="Backward elimination on what readers take in, then ridge refits towards the original, in execution order",
)
