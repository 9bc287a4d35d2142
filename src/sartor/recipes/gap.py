"""One set of layers after another is dense for a while, then pruned again (scheduled grow and prune, Ma et al. 2022).

Partitions are consecutive layers with about equally many weights; the order is cyclic. ImageNet took about 28 rounds in
85 % of 990 epochs; 8 rounds suit short runs. The parallel variant, which trains a copy of the network for every
partition, needs as many trainings and is not part of a session.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, GrowAndPrune, Recipe, Uniform, Weights

recipe = enter(
    Recipe(
        name="gap",
        source="Ma et al. 2022 (GaP), arXiv:2106.09857",
        score=Criterion("l1", normalise="none"),
        cut=Weights(),
        allocate=Uniform(floor=0.0),
        when=GrowAndPrune(partitions=4, rounds=8, until=0.85),
        heal=(FineTune(distill=0.0),),
    ),
    summary="One partition of layers after another is dense for a while, then pruned by magnitude",
)
