"""Sparse from the first update on: at every decision some live weights go and as many others come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sartor.errors import BadInput
from sartor.schedule.regrowth import cosine_regrow, stage_value
from sartor.sparse.growth import LastActivations, gradient_growth, hebbian_growth, random_growth
from sartor.sparse.mechanism import MECHANISMS, Moment, Training
from sartor.sparse.patterns import project, projection_of
from sartor.sparse.weights import Decided, WeightMechanism
from sartor.types import Recipe
from sartor.types.rewire import Constant, Falling, Rewire


@MECHANISMS.register(
    "weights/rewire", source="Mocanu et al. 2018, arXiv:1707.04780, and Evci et al. 2020, arXiv:1911.11134"
)
class RewiredWeights(WeightMechanism):
    """The lowest scores of every matrix go, then as many weights come by the rule of the recipe.

    What went at a decision does not come back at the same decision, unless a pattern has to have it. Where a gradient
    scaler skipped the update, there is no gradient to grow by, and nothing is exchanged. Every matrix keeps
    its number of live weights; with `beyond`, it has more of them until the next decision, and the budget's at the end.
    """

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        assert isinstance(recipe.when, Rewire)
        self.when: Rewire = recipe.when
        self.values = self.when.values
        self.whole_gradient = self.when.grow == "gradient"
        self.base: dict[str, int] = {}  # live weights of every matrix that meet the budget; decided once
        self._activations: LastActivations | None = None

    def start(self, training: Training) -> None:
        """See `Mechanism`."""
        super().start(training)
        if self.when.grow == "hebbian":
            self._activations = LastActivations(training.model, {n: x.shape for n, x in self.layers.items()})

    def share(self, moment: Moment) -> float:
        """The share of the live weights that is exchanged at a decision."""
        how = self.when.exchange
        if isinstance(how, Constant):
            return how.share
        if isinstance(how, Falling):
            return cosine_regrow(moment.progress, first=how.first, until=self.when.until)
        return stage_value(moment.progress, boundaries=how.boundaries, values=how.shares)

    def decide(self, moment: Moment) -> tuple[dict[str, int], Decided]:
        """See `Mechanism`."""
        last = moment.step >= self.when.steps(moment.total)[-1]
        if not self.base:
            return self._first(moment, 0.0 if last else self.share(moment))
        share = self.share(moment) if self.fresh or self.when.grow != "gradient" else 0.0
        scores = self.scores(moment)
        masks: Decided = {}
        for index, (name, score) in enumerate(scores.items()):
            sizes = self.pattern.sizes(tuple(score.shape))
            base, live = self.base[name], int(torch.isfinite(score).sum())
            if self.when.beyond:
                survivors, after = base, base if last else self._more(name, base, share)
            else:
                moved = sizes.at_most(base) - sizes.at_most(max(sizes.least, round(base * (1 - share))))
                survivors, after = base - min(moved, (score.numel() - live) // sizes.step * sizes.step), base
            kept = project(self.pattern, score, survivors) if survivors < live else torch.isfinite(score)
            grown = kept
            if after > survivors:
                grown = self._grown(name, index, moment, (kept, torch.isfinite(score) & ~kept), after)
            masks[name] = self.layers[name].unview(grown).cpu().contiguous()
        return self.base, masks

    def adopt(self, decision: Any, moment: Moment) -> None:
        """See `Mechanism`."""
        self.base, masks = decision
        super().adopt(masks, moment)

    def state_dict(self) -> dict[str, Any]:
        """See `Mechanism`."""
        return {**super().state_dict(), "base": dict(self.base)}

    def load_state_dict(self, state: Any) -> None:
        """See `Mechanism`."""
        super().load_state_dict(state)
        self.base = dict(state["base"])

    def _first(self, moment: Moment, share: float) -> tuple[dict[str, int], Decided]:
        """Masks drawn at random; layers are allocated by the recipe, with random scores if it compares scores."""
        drawn = {
            n: x.view(random_growth(x.shape, self._generator(moment, i)))
            for i, (n, x) in enumerate(self.layers.items())
        }
        counts = self.counts(drawn, self.target)
        begin = self.pattern if self.when.begin is None else projection_of(self.when.begin)
        live = {n: self._more(n, k, share) if self.when.beyond else k for n, k in counts.items()}
        masks = {}
        for name, score in drawn.items():
            why = begin.misfit(tuple(score.shape))
            if why is not None:
                raise BadInput(f"recipe {self.recipe.name!r}, 'when.begin': {name} cannot have the pattern: {why}")
            masks[name] = self.layers[name].unview(project(begin, score, live[name])).contiguous()
        return counts, masks

    def _more(self, name: str, base: int, share: float) -> int:
        """Live weights with the share beyond the budget."""
        return max(base, self.pattern.sizes(self.layers[name].viewed_shape).at_most(round(base * (1 + share))))

    def _grown(self, name: str, index: int, moment: Moment, parts: tuple[Tensor, Tensor], after: int) -> Tensor:
        """The survivors, and the dead weights that come, so that `after` weights are live."""
        survivors, gone = parts
        layer = self.layers[name]
        if self.when.grow == "gradient":
            if name not in self.gradients:
                raise BadInput(f"recipe {self.recipe.name!r}: {name} had no gradient in the last update to grow by")
            scores = layer.view(gradient_growth(self.gradients[name]))
        elif self.when.grow == "hebbian":
            assert self._activations is not None
            scores = layer.view(hebbian_growth(*self._activations[name]) + 1)
        else:
            scores = layer.view(random_growth(layer.shape, self._generator(moment, index)))
        scores = scores.to(survivors.device).masked_fill(gone, -torch.inf).masked_fill(survivors, torch.inf)
        return project(self.pattern, scores, after)

    def _generator(self, moment: Moment, index: int) -> torch.Generator:
        """One generator for every decision and matrix."""
        generator = self.training.generator(moment)
        return generator.manual_seed((generator.initial_seed() * 31 + index + 1) % 2**63)


__all__ = ["RewiredWeights"]
