"""Units that go while the network trains: the masks every such mechanism has, and removal along a curve."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sartor.errors import BadInput
from sartor.schedule.curves import CURVES, within
from sartor.sparse.mechanism import MECHANISMS, Moment, Training, Units
from sartor.sparse.unit_masks import UnitMasks
from sartor.types import Gradual, Plan, Recipe, Scores
from sartor.types.when import Values


class UnitMechanism:
    """Masks on units. A subclass says what is decided, and may add to what happens around an update."""

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.values: Values = "recent"  # of units that come back
        self._training: Training | None = None

    def start(self, training: Training) -> None:
        """See `Mechanism`."""
        if training.units is None:
            raise BadInput(f"recipe {self.recipe.name!r} removes units; the session found none in this model")
        self._training = training
        self.masks = UnitMasks(training.model, training.units.graph, training.optimizer)

    @property
    def training(self) -> Training:
        """The run that it was started in."""
        if self._training is None:
            raise BadInput(f"recipe {self.recipe.name!r}: call start(training) first")
        return self._training

    @property
    def units(self) -> Units:
        """Graph and decisions of the run."""
        units = self.training.units
        assert units is not None
        return units

    def before_update(self, moment: Moment) -> None:
        """See `Mechanism`."""
        self.masks.mask_gradients_()

    def after_update(self, moment: Moment) -> None:
        """See `Mechanism`."""
        self.masks.apply_()

    def decide(self, moment: Moment) -> str:
        """The plan of what is live from now on, as JSON."""
        raise NotImplementedError

    def adopt(self, decision: str, moment: Moment) -> None:
        """See `Mechanism`."""
        self.masks.adopt(Plan.from_json(decision), self.values, self.training.generator(moment))

    def plan(self) -> Plan | None:
        """See `Mechanism`."""
        plan = self.masks.live_plan
        return plan if plan.keep else None

    def density(self) -> float:
        """See `Mechanism`."""
        return self.masks.density

    def state_dict(self) -> dict[str, Any]:
        """See `Mechanism`."""
        return self.masks.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Mechanism`."""
        self.masks.load_state_dict(state)

    def live_units(self) -> dict[str, Tensor]:
        """Group -> bool [units], true for units that are live."""
        return live_units(self.units, self.masks.live_plan)


@MECHANISMS.register("axes/gradual", source="Zhu and Gupta 2017, arXiv:1710.01878; there for single weights")
class GradualUnits(UnitMechanism):
    """The lowest scores go, more of them at every decision; what has gone comes back only if a width grows again."""

    def decide(self, moment: Moment) -> str:
        """See `Mechanism`."""
        when = self.recipe.when
        assert isinstance(when, Gradual)
        last = moment.step >= when.steps(moment.total)[-1]
        strength = 1.0 if last else CURVES[when.curve](within(moment.progress, when.start, when.end))
        scores = removed_last(self.units.score(None), self.live_units())
        return self.units.allocate(scores, strength).to_json()


def live_units(units: Units, plan: Plan) -> dict[str, Tensor]:
    """Group -> bool [units], true for the units that a plan keeps."""
    live = {}
    for name, group in units.graph.groups.items():
        mask = torch.ones(group.units, dtype=torch.bool)
        if name in plan.keep:
            mask[:] = False
            mask[list(plan.keep[name])] = True
        live[name] = mask
    return live


def removed_last(scores: Scores, live: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Scores in which every removed unit lies below every live one of the network.

    >>> removed_last({"a": torch.tensor([3.0, 9.0, 1.0])}, {"a": torch.tensor([True, False, True])})
    {'a': tensor([ 3., -1.,  1.])}
    """
    present = torch.cat([s[live[n]] for n, s in scores.items()])
    low, high = float(present.min()), float(present.max())
    lowest = low - ((high - low) or 1.0)
    return {n: torch.where(live[n], s, torch.full_like(s, lowest)) for n, s in scores.items()}


__all__ = ["GradualUnits", "UnitMechanism", "live_units", "removed_last"]
