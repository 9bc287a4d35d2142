"""Modular connectivity of dense layers with Hebbian growth (G2GNet, 2025).

All weights inside 8 groups of units are live, and some across groups: 'weights<=25.6%' is the published density. Then
2.5 % of the live weights are exchanged at every decision: the smallest magnitudes go, and what comes connects units
that are active together in the last batch. Meant for heads of dense layers: name them in `cut.only`.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, Recipe, Rewire, Uniform, Weights
from sartor.types.rewire import Constant
from sartor.types.weights import Modular

recipe = enter(
    Recipe(
        name="g2gnet",
        source="G2GNet, 2025: ensemble-to-ensemble connectivity",
        score=Criterion("l1", normalise="none"),
        cut=Weights(last=False),
        allocate=Uniform(floor=0.0),
        when=Rewire(every=1000, until=0.95, exchange=Constant(0.025), grow="hebbian", begin=Modular(groups=8)),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Dense layers with modular connections; the smallest weights go, Hebbian ones come",
)
