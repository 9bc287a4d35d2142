"""Allocations tried on calibration data, each with refreshed batch norm (Li et al. 2020).

Where it starts: from the plan of the recipe `flap-fpgm`, one threshold over scores `flap*fpgm` relative to the largest
of each group. Each of 60 tries multiplies the scores of about half of the groups by random factors; one that comes
closer to the original's outputs is varied further, so the result is at least as close as the start on the samples that
judge (see `sartor.run.allocation_search`).

What is left out of the paper: it draws the ratio of every layer independently and uniformly, keeps the draws that meet
the budget, about a thousand, and ranks filters by their L1 norm; it judges by accuracy on labelled training images, and
trains the best few candidates before it chooses among them. Here no labels are read and one network is delivered.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, Recipe, Search

recipe = enter(
    Recipe(
        name="eagleeye",
        source="Li et al. 2020, arXiv:2007.02491",
        score=Criterion("flap*fpgm"),
        allocate=Search(tries=60),
    ),
    summary="Sixty allocations tried after re-estimating batch norm, the one nearest to the original stays",
)
