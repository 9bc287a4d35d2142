"""Random masks that never change: the baseline of training from scratch with few weights.

Layers have the densities of Erdős and Rényi, as in RigL, without which it is a weaker baseline.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, ErdosRenyi, FineTune, Recipe, Rewire, Weights
from sartor.types.rewire import Constant

recipe = enter(
    Recipe(
        name="static-random",
        source="Baseline of Evci et al. 2020 (RigL), arXiv:1911.11134",
        score=Criterion("l1", normalise="none"),
        cut=Weights(),
        allocate=ErdosRenyi(),
        when=Rewire(until=0.0, exchange=Constant(0.0)),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Random masks that stay as they are drawn",
)
