"""Grow and prune: one set of layers after another is dense for a while, the others stay sparse."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch

from sartor.sparse.mechanism import MECHANISMS, Moment
from sartor.sparse.weights import Decided, WeightMechanism
from sartor.types import Recipe
from sartor.types.rewire import GrowAndPrune


@MECHANISMS.register("weights/grow-and-prune", source="Ma et al. 2022 (GaP), arXiv:2106.09857")
class PartitionedWeights(WeightMechanism):
    """At the beginning of a round its partition becomes dense, new weights start from zero; the one before is pruned.

    Partitions are consecutive layers with about equally many weights. How many weights a layer keeps is decided once,
    at the first decision.
    """

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        assert isinstance(recipe.when, GrowAndPrune)
        self.when: GrowAndPrune = recipe.when
        self.base: dict[str, int] = {}  # live weights of every matrix that meet the budget

    def partitions(self) -> list[list[str]]:
        """The layers of every partition, in the order of the forward."""
        sizes = [x.size for x in self.layers.values()]
        return balanced(list(self.layers), sizes, min(self.when.partitions, len(sizes)))

    def dense(self, moment: Moment) -> list[str]:
        """The layers that are dense from this decision on; none after the last one."""
        steps = self.when.steps(moment.total)
        if moment.step >= steps[-1]:
            return []
        parts, index = self.partitions(), sum(moment.step >= s for s in steps) - 1
        cycle, place = divmod(index, len(parts))
        if self.when.order == "random":
            seed = (self.training.seed * 1_000_003 + cycle) % 2**63
            place = int(torch.randperm(len(parts), generator=torch.Generator().manual_seed(seed))[place])
        return parts[place]

    def decide(self, moment: Moment) -> tuple[dict[str, int], Decided]:
        """See `Mechanism`."""
        growing, scores = self.dense(moment), self.scores(moment)
        base = self.base or self.counts(scores, self.target)
        to_prune = {n: s for n, s in scores.items() if n not in growing and int(torch.isfinite(s).sum()) > base[n]}
        masks = self.projected(to_prune, base)
        return base, masks | {n: torch.ones(self.layers[n].shape, dtype=torch.bool) for n in growing}

    def adopt(self, decision: Any, moment: Moment) -> None:
        """See `Mechanism`."""
        self.base, masks = decision
        super().adopt(masks, moment)

    def state_dict(self) -> dict[str, Any]:
        """See `Mechanism`."""
        return {**super().state_dict(), "base": dict(self.base)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Mechanism`."""
        super().load_state_dict(state)
        self.base = dict(state["base"])


def balanced(names: list[str], sizes: list[int], parts: int) -> list[list[str]]:
    """Consecutive names in so many parts, none of them empty, whose sizes are about equal.

    >>> balanced(["a", "b", "c", "d"], [1, 1, 1, 3], 2)
    [['a', 'b', 'c'], ['d']]
    """
    ends = list(itertools.accumulate(sizes))
    cuts, begin = [0], 0
    for part in range(1, parts):
        wished = ends[-1] * part / parts
        low, high = begin + 1, len(names) - (parts - part)
        begin = min(range(low, high + 1), key=lambda i: abs(ends[i - 1] - wished))
        cuts.append(begin)
    return [names[a:b] for a, b in itertools.pairwise([*cuts, len(names)])]


__all__ = ["PartitionedWeights", "balanced"]
