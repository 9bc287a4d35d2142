"""Train, prune, rewind, again: each round removes the same share of what is live, and the network starts anew."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sartor.errors import BadInput
from sartor.sparse.mechanism import MECHANISMS, Moment, Training
from sartor.sparse.weights import Decided, WeightMechanism
from sartor.structure.model_copy import named_tensors
from sartor.types import Recipe
from sartor.types.rewire import Iterative
from sartor.types.weights import Elements


@MECHANISMS.register("weights/iterative", source="Frankle and Carbin 2019, arXiv:1803.03635")
class IterativeWeights(WeightMechanism):
    """After round r of R, total * (target / total) ** (r / R) weights are live: the last round meets the budget.

    Under `rewind`, every parameter and buffer then has the value that it had when the session began, except that dead
    weights are zero, and the optimizer's state is empty, as in a new training.
    """

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        assert isinstance(recipe.when, Iterative)
        self.when: Iterative = recipe.when
        if self.when.activate and not isinstance(self.cut.pattern, Elements):
            raise BadInput(
                f"recipe {recipe.name!r}, 'when.activate': single weights are chosen by their sign; expected the "
                f"pattern 'elements', got {self.cut.pattern.kind!r}"
            )
        self.begin: dict[str, Tensor] = {}  # every tensor of the network when the session began
        self.cycle: dict[str, Tensor] = {}  # the masked matrices when the round began

    def start(self, training: Training) -> None:
        """See `Mechanism`."""
        super().start(training)
        if self.when.rewind:
            self.begin = {name: t.detach().clone() for *_, name, t in named_tensors(training.model)}
        self._begin_round()

    def decide(self, moment: Moment) -> Decided:
        """See `Mechanism`."""
        steps = self.when.steps(moment.total)
        done = sum(moment.step >= s for s in steps)
        after = (
            self.target if done == len(steps) else round(self.total * (self.target / self.total) ** (done / len(steps)))
        )
        scores = self.scores(moment)
        more = self._activated(sum(self.live.values()) - after)
        counts = self.counts(scores, max(after + more, self.target))
        masks = self.projected(scores, counts)
        return self._without_least_moved(masks, more) if more else masks

    @torch.no_grad()
    def adopt(self, decision: Any, moment: Moment) -> None:
        """See `Mechanism`."""
        super().adopt(decision, moment)
        if self.when.rewind:
            for *_, name, t in named_tensors(self.training.model):
                t.copy_(self.begin[name])
            self.masks.apply_()
            self.training.optimizer.state.clear()
        self._begin_round()

    def state_dict(self) -> dict[str, Any]:
        """See `Mechanism`."""
        tables = {"begin": self.begin, "cycle": self.cycle}
        return {**super().state_dict(), **{k: {n: t.clone() for n, t in v.items()} for k, v in tables.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Mechanism`."""
        super().load_state_dict(state)
        devices = {name: t.device for *_, name, t in named_tensors(self.training.model)}
        self.begin = {n: t.to(devices[n], copy=True) for n, t in state["begin"].items()}
        self.cycle = {n: t.to(devices[n], copy=True) for n, t in state["cycle"].items()}

    def _begin_round(self) -> None:
        if self.when.activate:
            self.cycle = {n: t.detach().clone() for n, t in self.masks.tensors.items()}

    def _activated(self, removed: int) -> int:
        """How many of the weights that go are chosen by their sign and movement."""
        return round(self.when.activate * max(0, removed))

    def _without_least_moved(self, masks: Decided, count: int) -> Decided:
        """The masks without the negative live weights that moved least in this round, at most `count` of them.

        Where there are fewer negative ones, the smallest of all go too. Every matrix keeps its largest weight.
        """
        weights = {n: self.masks.tensors[n].detach().cpu() for n in masks}
        moved = {n: (w - self.cycle[n].cpu()).abs().double() for n, w in weights.items()}
        most = max(float(m.max()) for m in moved.values())
        ranked = []
        for name, mask in masks.items():
            weight = weights[name]
            rank = torch.where(weight < 0, moved[name], most + 1 + weight.abs()).masked_fill(~mask, torch.inf)
            largest = weight.abs().masked_fill(~mask, -1.0).argmax()
            ranked.append(rank.flatten().index_fill(0, largest, torch.inf))
        everything = torch.cat(ranked)
        gone = torch.zeros_like(everything, dtype=torch.bool)
        gone[(-everything).topk(count, sorted=False).indices] = True
        parts = gone.split([len(r) for r in ranked])
        return {n: m & ~g.view(m.shape) for (n, m), g in zip(masks.items(), parts)}


__all__ = ["IterativeWeights"]
