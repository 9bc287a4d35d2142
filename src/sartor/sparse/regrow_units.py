"""Units that go and come back while the network trains, fewer and fewer of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor

from sartor.errors import BadInput
from sartor.importance.columns import distances_to_kept, leverage
from sartor.schedule.regrowth import cosine_regrow
from sartor.sparse.mechanism import MECHANISMS, Moment, Training
from sartor.sparse.units import UnitMechanism
from sartor.types import Bounds, Plan, PruneAndRegrow, Recipe

_BUDGET = 1 - 1e-9  # strength of the budget before the last decision: only that one measures latency


@MECHANISMS.register("axes/prune-and-regrow", source="Hou et al. 2022 (CHEX), arXiv:2203.15794")
class RegrownUnits(UnitMechanism):
    """The budget is cut to, then some units grow back; how many follows the recipe's score in every group.

    Of each group, the score decides how many units stay: as many as it keeps at the budget. Then as many grow back as
    it keeps at the loosened budget (`regrow` of the dense cost more, less and less). Scores see removed units with
    their most recently used values. The first decision only prunes: to the loosened budget, by L1 norms.

    Source: Hou et al. 2022 (CHEX), arXiv:2203.15794, and its code for the number that grows back in each layer.
    """

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        assert isinstance(recipe.when, PruneAndRegrow)
        self.when = recipe.when
        if self.when.grow not in ("leverage", "random"):
            raise BadInput(
                f"recipe {recipe.name!r}, when.grow: units grow back by 'leverage' or 'random'; got {self.when.grow!r}"
            )

    def start(self, training: Training) -> None:
        """See `Mechanism`."""
        super().start(training)
        self.values = self.when.values
        if self.values == "rewind":
            self.masks.remember_first()

    def decide(self, moment: Moment) -> str:
        """See `Mechanism`."""
        when, units = self.when, self.units
        first, last = moment.step == 0, moment.step >= when.steps(moment.total)[-1]
        spare = 0.0 if last else cosine_regrow(moment.progress, first=when.regrow, until=when.until)
        generator = self.training.generator(moment)
        live = {n: mask.nonzero()[:, 0].tolist() for n, mask in self.live_units().items()}
        with self.masks.restored():
            scores = units.score(None)
            most = units.allocate(scores, _loosened(self.training.bounds, spare))
            least = most if first or last else units.allocate(scores, _BUDGET)
            keep = {}
            for name, group in units.graph.groups.items():
                many = len(most.keep[name]) if name in most.keep else group.units
                few = min(many, len(least.keep[name]) if name in least.keep else group.units)
                if many == group.units:
                    continue
                weights = self._writers(name)
                order = scores[name].argsort(descending=True, stable=True).tolist()
                kept = _best(weights, live[name], few, "l1" if first else when.within, order)
                keep[name] = tuple(sorted(kept + _grown(weights, kept, many - few, when.grow, generator)))
        return Plan(keep, self.recipe.name, units.graph.fingerprint).to_json()

    def _writers(self, group: str) -> list[Tensor]:
        """The weights that write the units of a group, each [units, rest] in float64 on the CPU."""
        graph, tensors = self.units.graph, self.masks.tensors
        found = []
        for m in graph.groups[group].members:
            if m.role == "out" and m.tensor in tensors and tensors[m.tensor].dim() > 1:
                found.append(graph.unit_view(group, m, tensors[m.tensor].detach()).double().cpu())
        return found


def _loosened(bounds: Bounds, spare: float) -> float:
    """The strength at which every limit is loosened by at least `spare` of the dense cost."""
    shares = [bounds.at_most(x) / bounds.original.get(x.metric) for x in bounds.counted]
    shares += [x.at_most for x in bounds.timed if x.relative]
    return max(0.0, 1 - spare / max(1e-12, 1 - min(shares)))


def _best(weights: Sequence[Tensor], live: Sequence[int], count: int, by: str, order: Sequence[int]) -> list[int]:
    """The units that stay.

    Args:
        weights: of the writers, each [units, rest].
        live: units that are live now. Removed ones are taken only if the live ones do not suffice.
        count: how many stay.
        by: "leverage", "l1", or "score": the first ones of `order`.
        order: all units, the best first.
    """
    if by == "score" or not weights:
        return list(order[:count])
    mine = [w[list(live)] for w in weights]
    count_live = min(count, len(live))
    if by == "leverage":
        value = torch.stack([_relative(_leverage(w, count_live)) for w in mine]).sum(0)
    else:
        value = torch.stack([_relative(w.abs().sum(1)) for w in mine]).sum(0)
    best = [live[i] for i in value.argsort(descending=True, stable=True)[:count_live].tolist()]
    if count > count_live:  # the group grows: what represents best what is missing
        left = _distances(weights, best)
        left[best] = -torch.inf
        best += left.argsort(descending=True, stable=True)[: count - count_live].tolist()
    return best


def _grown(weights: Sequence[Tensor], kept: Sequence[int], count: int, by: str, generator: Generator) -> list[int]:
    """Removed units that come back: drawn without replacement, with p proportional to exp(distance) or alike."""
    if not count:
        return []
    units = len(weights[0]) if weights else len(kept) + count
    logits = _distances(weights, kept) if by == "leverage" and weights else torch.zeros(units, dtype=torch.float64)
    noise = torch.rand(units, generator=generator, dtype=torch.float64).clamp_min(1e-300).log().neg().log().neg()
    keys = logits + noise  # the largest keys are a sample without replacement (Gumbel)
    keys[list(kept)] = -torch.inf
    return [int(i) for i in keys.argsort(descending=True, stable=True)[:count]]


def _leverage(weight: Tensor, count: int) -> Tensor:
    """Leverage for the best `count`-dimensional subspace; L1 norms where a unit has fewer weights than there are units.

    Source: Hou et al. 2022 (CHEX), arXiv:2203.15794, and its code.
    """
    units, rest = weight.shape
    return weight.abs().sum(1) if rest < units else leverage(weight)[count - 1]


def _relative(value: Tensor) -> Tensor:
    """Values of one writer over their mean, so that several writers count alike."""
    mean = value.mean()
    return value / mean if mean > 0 else value


def _distances(weights: Sequence[Tensor], kept: Sequence[int]) -> Tensor:
    """Distance of every unit to the span of the kept ones, the mean over writers: [units], 0 for kept units."""
    return torch.stack([distances_to_kept(w @ w.T, list(kept)).sqrt() for w in weights]).mean(0)


__all__ = ["RegrownUnits"]
