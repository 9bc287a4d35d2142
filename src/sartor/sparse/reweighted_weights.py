"""A reweighted penalty drives small weights to zero; then the smallest are removed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sartor.sparse.mechanism import MECHANISMS, Moment
from sartor.sparse.penalties import reweighted, weighted_square_gradient
from sartor.sparse.weights import Decided, WeightMechanism
from sartor.types import Recipe
from sartor.types.rewire import Reweighted


@MECHANISMS.register("weights/reweighted", source="Zhang et al. 2020, arXiv:2004.05531")
class ReweightedWeights(WeightMechanism):
    """The penalty is added to gradients before every update; its factors are computed anew at every refresh.

    Which weights share a factor is what the pattern removes as a whole: a block, otherwise a single weight.
    """

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        assert isinstance(recipe.when, Reweighted)
        self.when: Reweighted = recipe.when
        self.factors: dict[str, Tensor] = {}

    @torch.no_grad()
    def before_update(self, moment: Moment) -> None:
        """See `Mechanism`."""
        for name, factors in self.factors.items():
            weight = self.masks.tensors[name]
            if weight.grad is not None:
                weight.grad.add_(weighted_square_gradient(weight, factors.to(weight.device)), alpha=self.when.strength)
        super().before_update(moment)

    def decide(self, moment: Moment) -> Decided | None:
        """The masks at the last decision; None: the penalty is refreshed, by every rank from its own, equal weights."""
        if moment.step < self.when.steps(moment.total)[-1]:
            return None
        scores = self.scores(moment)
        return self.projected(scores, self.counts(scores, self.target))

    @torch.no_grad()
    def adopt(self, decision: Any, moment: Moment) -> None:
        """See `Mechanism`."""
        if decision is not None:
            self.factors = {}
            super().adopt(decision, moment)
            return
        for name, layer in self.layers.items():
            norms = self.pattern.norms_squared(layer.view(self.masks.tensors[name].detach()))
            self.factors[name] = layer.unview(reweighted(norms, self.when.epsilon)).contiguous()

    def state_dict(self) -> dict[str, Any]:
        """See `Mechanism`."""
        return {**super().state_dict(), "factors": {n: t.clone() for n, t in self.factors.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Mechanism`."""
        super().load_state_dict(state)
        self.factors = {n: t.to(self.masks.tensors[n].device, copy=True) for n, t in state["factors"].items()}


__all__ = ["ReweightedWeights"]
