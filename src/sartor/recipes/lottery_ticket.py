"""Train, prune the smallest weights, go back to the beginning, again (lottery tickets, Frankle and Carbin 2019).

The same share of the live weights goes in every round: 'weights<=32.768%' in five rounds is 20 % each. Every part of
the run should be a whole training with its own learning rates, in a loop of your own; `sartor.fit` has one schedule for
all. Whether the result is a winning ticket takes the comparisons of Ma et al. 2021, arXiv:2107.00166: a dense training
and a random start with the same masks.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Global, Iterative, Recipe, Weights

recipe = enter(
    Recipe(
        name="lottery-ticket",
        source="Frankle and Carbin 2019, arXiv:1803.03635",
        score=Criterion("l1", normalise="none"),
        cut=Weights(),
        allocate=Global(floor=0.0),
        when=Iterative(rounds=5),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Rounds of training, pruning by magnitude and rewinding to the beginning",
)
