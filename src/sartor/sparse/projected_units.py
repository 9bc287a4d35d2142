"""Projected optimizers: what is redundant is driven to zero while the rest trains, and leaves when it is zero.

A unit is the variables that write it: rows of weights, biases, scales and shifts of norms, in all coupled layers. Where
these are zero its activation is zero, so it can be taken away without a change of the output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sartor.errors import BadInput
from sartor.sparse.mechanism import MECHANISMS, Moment, Training
from sartor.sparse.unit_rows import UnitRows
from sartor.sparse.units import UnitMechanism
from sartor.types import HalfSpace, Plan, Projected, Recipe


@dataclass
class _Redundant:
    """The units of one group that are to go."""

    rows: UnitRows
    zero: Tensor  # bool [units]: those that are zero and stay so


@MECHANISMS.register("axes/projected", source="Chen et al. 2023 (OTOv2), arXiv:2303.06862; HESSO, arXiv:2409.09085")
class ProjectedUnits(UnitMechanism):
    """At `start` the recipe's scores say what is redundant, so that the rest meets the budget; by `end` it is zero.

    `HalfSpace` (DHSPG): the gradient of a redundant unit x gets lambda x / ||x||, with lambda raised where the gradient
    alone would let the unit grow; after the update, a unit becomes zero, and stays so, if <new, old> is below
    epsilon ||old||^2. What has not reached zero at `end` is set to zero. `Shrink` (HESSO): after update t of T, a
    redundant unit is multiplied by (T - t) / (T - t + 1), so that it is zero after T updates.

    Source: Chen et al. 2023, arXiv:2303.06862, and Chen et al. 2024, arXiv:2409.09085. There the budget is a share of
    the groups.
    """

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        assert isinstance(recipe.when, Projected)
        self.when = recipe.when
        self.chosen: Plan | None = None
        self.redundant: dict[str, _Redundant] = {}
        self._old: dict[str, list[Tensor | None]] = {}

    def start(self, training: Training) -> None:
        """See `Mechanism`."""
        super().start(training)
        if len(self.when.steps(training.total)) < 2:
            raise BadInput(
                f"recipe {self.recipe.name!r}: of {training.total} steps none lies between its start, "
                f"{self.when.start:g}, and its end, {self.when.end:g}; train longer"
            )

    def decide(self, moment: Moment) -> str:
        """See `Mechanism`."""
        if self.chosen is None:
            return self.units.allocate(self.units.score(None), 1.0).to_json()
        return self.chosen.to_json()

    def adopt(self, decision: str, moment: Moment) -> None:
        """See `Mechanism`. The first decision removes nothing yet."""
        if moment.step >= self.when.steps(moment.total)[-1]:
            self.redundant, self._old = {}, {}
            super().adopt(decision, moment)
        else:
            self._choose(Plan.from_json(decision))

    @torch.no_grad()
    def before_update(self, moment: Moment) -> None:
        """See `Mechanism`."""
        super().before_update(moment)
        for name, units in self.redundant.items():
            if not isinstance(self.when.optimizer, HalfSpace):
                break
            values = units.rows.values
            gradients = [t.grad for t in values]
            self._old[name] = [t.detach().clone() for t in values]
            size = units.rows.inner(values, values)
            strength = _strength(
                self.when.optimizer, size, units.rows.inner(values, gradients), units.rows.inner(gradients, gradients)
            )
            factors = torch.where(size > 0, strength / size.clamp_min(1e-300).sqrt(), 0.0)
            for i, t in enumerate(values):
                if t.grad is not None:
                    t.grad.add_(t * units.rows.along(i, factors, 0.0))

    @torch.no_grad()
    def after_update(self, moment: Moment) -> None:
        """See `Mechanism`."""
        super().after_update(moment)
        for name, units in self.redundant.items():
            values = units.rows.values
            if isinstance(self.when.optimizer, HalfSpace):
                old = self._old.pop(name, None)
                if old is not None:
                    outside = units.rows.inner(values, old) < self.when.optimizer.epsilon * units.rows.inner(old, old)
                    units.zero |= outside | (units.rows.inner(old, old) == 0)
                factors = (~units.zero).double()
            else:
                left = self.when.steps(moment.total)[-1] - moment.step
                factors = torch.full((len(units.zero),), max(0.0, left / (left + 1)), dtype=torch.float64)
            if bool((factors < 1).any()):
                for i, t in enumerate(values):
                    t.mul_(units.rows.along(i, factors, 1.0))

    def state_dict(self) -> dict[str, Any]:
        """See `Mechanism`."""
        return {
            **super().state_dict(),
            "chosen": None if self.chosen is None else self.chosen.to_json(),
            "zero": {name: units.zero.clone() for name, units in self.redundant.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Mechanism`."""
        super().load_state_dict(state)
        self.chosen, self.redundant = None, {}
        if state["chosen"] is not None:
            self._choose(Plan.from_json(state["chosen"]))
            self.redundant = {n: u for n, u in self.redundant.items() if n in state["zero"]}
            for name, units in self.redundant.items():
                units.zero = state["zero"][name].clone()

    def _choose(self, plan: Plan) -> None:
        """Look up where the units that a plan does not keep are written."""
        self.chosen = plan
        graph, tensors = self.units.graph, self.masks.tensors
        self.redundant = {}
        for name, kept in plan.keep.items():
            gone = torch.ones(graph.groups[name].units, dtype=torch.bool)
            gone[list(kept)] = False
            rows = UnitRows.of(graph, name, {n: tensors[n] for n in self.masks.parameters if n in tensors}, gone)
            if bool(gone.any()) and rows.places:
                self.redundant[name] = _Redundant(rows, torch.zeros(int(gone.sum()), dtype=torch.bool))


def _strength(options: HalfSpace, size: Tensor, along: Tensor, steep: Tensor) -> Tensor:
    """The strength of the regulariser for every unit.

    Args:
        options: strength lambda and amplification.
        size: <x, x>, [units].
        along: <x, gradient>; negative where a gradient step would let the unit grow.
        steep: <gradient, gradient>.

    Returns:
        [units]: lambda where `along` >= 0. Elsewhere amplify * lower, clipped to [lambda, 10 lambda], with
        lower = -along / ||x||; above upper = -||gradient||^2 ||x|| / along, where the sum would no longer descend, the
        middle of the two.

    >>> one = torch.ones(1, dtype=torch.float64)
    >>> _strength(HalfSpace(strength=0.1, amplify=2.0), one, -0.2 * one, one).item()
    0.4
    """
    norm, low = size.clamp_min(1e-300).sqrt(), options.strength
    grows = along < 0
    lower = torch.where(grows, -along / norm, 0.0)
    upper = torch.where(grows, -steep * norm / torch.where(grows, along, -1.0), torch.inf)
    wished = (options.amplify * lower).clamp(low, 10 * low)
    chosen = torch.where(wished > upper, (lower + upper) / 2, wished)
    return torch.where(grows, chosen, low)


__all__ = ["ProjectedUnits"]
