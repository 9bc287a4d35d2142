"""Weights that go while the network trains: the masks every such mechanism has, and removal along a curve."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from sartor.allocate.weight_counts import Room, erdos_renyi_counts, even_counts, threshold_counts
from sartor.errors import BadInput, NothingToDo
from sartor.importance.reduce import normalised
from sartor.importance.registry import find_criterion
from sartor.schedule.curves import CURVES, between, within
from sartor.sparse.mechanism import MECHANISMS, Moment, Training
from sartor.sparse.patterns import Projection, project, projection_of
from sartor.sparse.weight_layers import participants
from sartor.sparse.weight_masks import WeightMasks
from sartor.types import Criterion, ErdosRenyi, Global, Gradual, Plan, Recipe, Uniform, Weights
from sartor.types.when import Values

Decided = dict[str, Tensor]  # parameter -> bool, in the shape of the parameter, on the CPU
_READS = ("weight", "grad", "units", "generator")  # what a criterion of single weights may read


class WeightMechanism:
    """Masks on single weights, in a pattern. A subclass says what is decided, and may add to what happens around it."""

    values: Values = "zero"  # of weights that come back
    whole_gradient: bool = False  # whether decisions read the gradient of dead weights

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        cut = recipe.cut
        assert isinstance(cut, Weights)
        self.cut: Weights = cut
        self.pattern: Projection = projection_of(cut.pattern)
        self.gradients: dict[str, Tensor] = {}  # of the last update before a decision
        self.fresh = False  # whether that update was the last one; a gradient scaler may skip it
        self.left_dense: dict[str, str] = {}  # matrices that cannot have the pattern -> why
        self._training: Training | None = None
        self._score = _score_function(recipe)

    def start(self, training: Training) -> None:
        """See `Mechanism`."""
        self._training = training
        layers = participants(training.layers, self.cut)
        reasons = {x.name: self.pattern.misfit(x.viewed_shape) for x in layers}
        self.left_dense = {n: why for n, why in reasons.items() if why is not None}
        self.layers = {x.name: x for x in layers if reasons[x.name] is None}
        if not self.layers:
            name, why = next(iter(self.left_dense.items()))
            raise BadInput(
                f"recipe {self.recipe.name!r}: no weight matrix can have the pattern {self.cut.pattern.kind!r}; "
                f"{name}: {why}"
            )
        self.masks = WeightMasks(training.model, list(self.layers.values()), training.optimizer)
        self.target = self._target()
        if self.values == "rewind":
            self.masks.remember_first()

    @property
    def training(self) -> Training:
        """The run that it was started in."""
        if self._training is None:
            raise BadInput(f"recipe {self.recipe.name!r}: call start(training) first")
        return self._training

    @property
    def total(self) -> int:
        """Weights of all matrices that take part, live or not."""
        return self.masks.total

    @property
    def live(self) -> dict[str, int]:
        """Live weights of every matrix that takes part."""
        return dict(self.masks.live)

    def before_update(self, moment: Moment) -> None:
        """See `Mechanism`."""
        if moment.decides and (self.whole_gradient or self._score.needs_gradient):
            self.gradients = {
                n: t.grad.detach().clone() for n, t in self.masks.tensors.items() if t.grad is not None
            }  # fmt: skip
            self.fresh = True
        self.masks.mask_gradients_()

    def after_update(self, moment: Moment) -> None:
        """See `Mechanism`."""
        self.masks.apply_()

    def decide(self, moment: Moment) -> Any:
        """See `Mechanism`."""
        raise NotImplementedError

    def adopt(self, decision: Any, moment: Moment) -> None:
        """See `Mechanism`."""
        remember = self.values == "recent"
        self.masks.adopt(decision, self.values, self.training.generator(moment), remember=remember)
        self.fresh = False
        if not self._score.needs_gradient:
            self.gradients = {}

    def plan(self) -> Plan | None:
        """Weights are pruned, not units."""
        return None

    def density(self) -> float:
        """See `Mechanism`; products that read no weight matrix, such as those of attention, stay dense."""
        dense = self.training.bounds.original.macs
        live = self.live
        saved = sum(x.macs * (1 - live[x.name] / x.size) for x in self.layers.values())
        return 1 - saved / dense if dense else 1.0

    def state_dict(self) -> dict[str, Any]:
        """See `Mechanism`; with the last gradients, which the next score reads if a scaler skips an update."""
        return {**self.masks.state_dict(), "gradients": {n: g.clone() for n, g in self.gradients.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Mechanism`."""
        self.masks.load_state_dict(state)
        self.gradients = {n: g.to(self.masks.tensors[n].device, copy=True) for n, g in state["gradients"].items()}

    def scores(self, moment: Moment) -> dict[str, Tensor]:
        """Scores of all weights as [out, in, *kernel]; dead ones -inf."""
        found = {}
        for index, (name, layer) in enumerate(self.layers.items()):
            weight = self.masks.tensors[name].detach()
            generator = self.training.generator(moment, weight.device)
            generator.manual_seed((generator.initial_seed() + 7919 * index) % 2**63)
            score = self._score(weight, self.gradients.get(name), generator)
            found[name] = layer.view(score.masked_fill(~self.masks.masks[name].to(score.device), -torch.inf))
        return found

    def counts(self, scores: Mapping[str, Tensor], total: int) -> dict[str, int]:
        """Live weights of every matrix, `total` in all; in the pattern once `total` is the target."""
        final = total <= self.target
        rooms = {n: self._room(n, final) for n in self.layers}
        how = self.recipe.allocation
        if isinstance(how, Global):
            found = threshold_counts(scores, rooms, total)
        elif isinstance(how, ErdosRenyi):
            shapes = {n: x.viewed_shape for n, x in self.layers.items()}
            found = erdos_renyi_counts(shapes, rooms, total, kernel=how.kernel)
        else:
            found = even_counts({n: x.size for n, x in self.layers.items()}, rooms, total)
        sizes = {n: self.pattern.sizes(x.viewed_shape) for n, x in self.layers.items()}
        return {n: k if k > sizes[n].most else sizes[n].at_most(k) for n, k in found.items()}

    def projected(self, scores: Mapping[str, Tensor], counts: Mapping[str, int]) -> Decided:
        """The masks of these counts with the largest scores."""
        return {
            n: self.layers[n].unview(project(self.pattern, s, counts[n])).cpu().contiguous() for n, s in scores.items()
        }

    def _room(self, name: str, final: bool) -> Room:
        layer, sizes = self.layers[name], self.pattern.sizes(self.layers[name].viewed_shape)
        floor = math.ceil(self.recipe.allocation.floor * layer.size - 1e-9)
        if not final:
            return Room(max(sizes.least, min(floor, layer.size)), layer.size)
        least = sizes.least + max(0, math.ceil((min(floor, sizes.most) - sizes.least) / sizes.step)) * sizes.step
        return Room(least, sizes.most, sizes.step)

    def _target(self) -> int:
        """Live weights that the budget allows, checked: the pattern can have so few, and something has to go."""
        bounds = self.training.bounds
        limits = [x for x in bounds.budget.limits if x.metric == "weights"]
        others = [x.metric for x in bounds.budget.limits if x.metric != "weights"]
        if not limits or others:
            raise BadInput(
                f"recipe {self.recipe.name!r} masks weights and leaves every shape as it is: expected a budget such as "
                f"'weights<=10%'; got limits on {', '.join(others) or 'nothing'}"
            )
        total = sum(x.size for x in self.layers.values())
        target = min(weights_allowed(x.at_most, total, relative=x.relative) for x in limits)
        rooms = {n: self._room(n, True) for n in self.layers}
        if target >= total:
            raise NothingToDo(f"the budget allows {target} live weights; the dense matrices have {total}")
        even_counts({n: x.size for n, x in self.layers.items()}, rooms, target)
        return min(target, sum(r.most for r in rooms.values()))


@MECHANISMS.register("weights/gradual", source="Zhu and Gupta 2017, arXiv:1710.01878")
class GradualWeights(WeightMechanism):
    """The lowest scores go, more of them at every decision.

    What has gone stays zero, because its gradients are masked. It is live again only where a pattern must have
    it: packs of a gather-scatter pattern that stay may need another weight than before.
    """

    def decide(self, moment: Moment) -> Decided:
        """See `Mechanism`."""
        when = self.recipe.when
        assert isinstance(when, Gradual)
        last = moment.step >= when.steps(moment.total)[-1]
        share = 1.0 if last else CURVES[when.curve](within(moment.progress, when.start, when.end))
        live = round(between(self.total, self.target, share))
        if live == self.total:
            return {n: m.cpu() for n, m in self.masks.masks.items()}
        scores = self.scores(moment)
        return self.projected(scores, self.counts(scores, live))


class _Score:
    """The score of every single weight of a matrix by a criterion: a unit is one weight."""

    def __init__(self, function: Callable[..., Tensor], needs: tuple[str, ...], normalise: str, recipe: str):
        self.function, self.needs, self.normalise, self.recipe = function, needs, normalise, recipe
        self.needs_gradient = "grad" in needs

    def __call__(self, weight: Tensor, gradient: Tensor | None, generator: torch.Generator) -> Tensor:
        if self.needs_gradient and gradient is None:
            raise BadInput(
                f"recipe {self.recipe!r}: its score reads gradients, and no update was made yet; let it start later"
            )
        rows = weight.reshape(-1, 1)
        given: dict[str, Any] = {"weight": rows, "units": len(rows), "generator": generator}
        if gradient is not None:
            given["grad"] = gradient.reshape(-1, 1)
        score = self.function(**{n: given[n] for n in self.needs}).to(weight.device)
        return normalised(score, self.normalise).reshape(weight.shape)


def _score_function(recipe: Recipe) -> _Score:
    """The recipe's criterion, checked.

    Raises:
        BadInput: the recipe scores otherwise, or allocates in a way that is made for units.
    """
    how, allocation = recipe.score, recipe.allocate
    if not isinstance(how, Criterion):
        raise BadInput(f"recipe {recipe.name!r}: weights are scored by a criterion; got score kind {how.kind!r}")
    found = find_criterion(how.criterion)
    foreign = [n for n in found.needs if n not in _READS]
    if foreign:
        raise BadInput(
            f"recipe {recipe.name!r}: criterion {found.name!r} reads {', '.join(foreign)}, which a single weight does "
            f"not have; expected one that reads only {', '.join(_READS)}, such as 'l1'"
        )
    if how.normalise in ("macs", "rank") or how.per_cost:
        raise BadInput(
            f"recipe {recipe.name!r}: scores of weights can be normalised by 'none', 'mean' or 'max'; got "
            f"{how.normalise!r} with per_cost {how.per_cost:g}"
        )
    if not isinstance(allocation, Global | Uniform | ErdosRenyi) or getattr(allocation, "round_to", None) is not None:
        raise BadInput(
            f"recipe {recipe.name!r}: weights are allocated by global, uniform or erdos-renyi without 'round_to'; got "
            f"{allocation.kind!r}"
        )
    return _Score(found.function, found.needs, how.normalise, recipe.name)


def weights_allowed(at_most: float, total: int, *, relative: bool) -> int:
    """Live weights that a limit allows, a whole number.

    >>> weights_allowed(0.25, 1001, relative=True)
    250
    """
    return math.floor(at_most * total if relative else at_most)


__all__ = ["Decided", "GradualWeights", "WeightMechanism", "weights_allowed"]
