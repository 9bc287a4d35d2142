"""Taylor importance, and widths from tables of measured latency (Shen et al. 2022).

The paper prunes ResNets layer by layer in steps of a layer's own size; here every width of the staircase may be chosen,
couplings of neighbouring layers are part of the program, and the plan is measured and corrected afterwards. Scores are
not divided by MACs: the limit says what a unit costs.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Knapsack, Recipe

recipe = enter(
    Recipe(
        name="halp",
        source="Shen et al. 2022, arXiv:2110.10811",
        score=Criterion("taylor", normalise="none"),
        allocate=Knapsack(),
    ),
    summary="First-order change of the loss, widths chosen by a knapsack over measured latency",
)
