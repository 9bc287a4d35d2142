"""Give up what the others can stand in for, then refit every reader: minutes, no labels, no training."""

from sartor.recipes.registry import enter
from sartor.types import Recipe

recipe = enter(
    Recipe(
        name="reconstruction",
        source="He et al. 2017, arXiv:1707.06168 (selection and least squares), with Hassibi and Stork 1993",
        criterion="reconstruction",
        reduce="sum",
        normalise="macs",
        floor=0.05,
        refit=True,
    ),
    summary="Backward elimination on what readers take in, then ridge refits towards the original, in execution order",
)
