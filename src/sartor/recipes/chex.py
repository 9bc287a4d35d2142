"""Channels are pruned by leverage and grow back by chance, from scratch and in one training (CHEX, Hou et al. 2022).

One threshold on the batch-norm scales says how many channels each layer keeps, column subset selection says which. What
comes back is drawn by its distance from what is kept, with its most recently used values.

There the budget is a share of the channels, and that share is searched for one of the MACs; here the counted budget is
met. The time between two decisions is a share of the run: 2 of 250 epochs.
"""

from sartor.recipes.registry import enter
from sartor.types import Criterion, FineTune, PruneAndRegrow, Recipe

recipe = enter(
    Recipe(
        name="chex",
        source="Hou et al. 2022 (CHEX), arXiv:2203.15794",
        score=Criterion("bn-scale", normalise="none", reduce="mean"),
        when=PruneAndRegrow(every=0.008, until=0.72, regrow=0.2, within="leverage", grow="leverage", values="recent"),
        heal=(FineTune(distill=0.0),),
    ),
    summary="Leverage within layers, batch-norm scales across; channels grow back while the network trains",
)
