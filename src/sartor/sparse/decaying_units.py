"""A penalty that grows for units which are small already, then one removal, all in one training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from sartor.sparse.mechanism import MECHANISMS, Moment, Training
from sartor.sparse.unit_rows import UnitRows
from sartor.sparse.units import UnitMechanism
from sartor.types import Decaying, Recipe


@MECHANISMS.register("axes/decaying", source="Fang et al. 2023 (DepGraph), arXiv:2301.12900")
class DecayingUnits(UnitMechanism):
    """Until `end` every unit decays by its own strength; then the recipe's scores say once what goes.

    The gradient of every element w of a unit g gets strength * base ** ((I_max - I_g) / (I_max - I_min)) * w, where I_g
    is the norm of the unit over all parameters that write, scale or read it, and the extremes are those of its group.
    The norms are measured anew at every decision.

    Source: Fang et al. 2023 (DepGraph), arXiv:2301.12900, and its code: base 16, gradients as of half a squared norm.
    """

    def __init__(self, recipe: Recipe):
        super().__init__(recipe)
        assert isinstance(recipe.when, Decaying)
        self.when = recipe.when
        self.decay: dict[str, Tensor] = {}  # group -> [units]

    def start(self, training: Training) -> None:
        """See `Mechanism`."""
        super().start(training)
        graph, masks = self.units.graph, self.masks
        parameters = {n: masks.tensors[n] for n in masks.parameters if n in masks.tensors}
        self.rows = {
            name: UnitRows.of(graph, name, parameters, torch.ones(g.units, dtype=torch.bool), ("out", "norm", "in"))
            for name, g in graph.groups.items()
        }

    def decide(self, moment: Moment) -> str:
        """A plan as JSON at the last decision, before it the decay of every unit."""
        if moment.step >= self.when.steps(moment.total)[-1]:
            return self.units.allocate(self.units.score(None), 1.0).to_json()
        return json.dumps({n: decay_of(rows, self.when).tolist() for n, rows in self.rows.items()})

    def adopt(self, decision: str, moment: Moment) -> None:
        """See `Mechanism`."""
        if moment.step >= self.when.steps(moment.total)[-1]:
            self.decay = {}
            super().adopt(decision, moment)
        else:
            self.decay = {n: torch.tensor(v, dtype=torch.float64) for n, v in json.loads(decision).items()}

    @torch.no_grad()
    def before_update(self, moment: Moment) -> None:
        """See `Mechanism`."""
        super().before_update(moment)
        for name, decay in self.decay.items():
            rows = self.rows[name]
            for i, t in enumerate(rows.values):
                if t.grad is not None:
                    t.grad.add_(t * rows.along(i, decay, 0.0))

    def state_dict(self) -> dict[str, Any]:
        """See `Mechanism`."""
        return {**super().state_dict(), "decay": {n: v.clone() for n, v in self.decay.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `Mechanism`."""
        super().load_state_dict(state)
        self.decay = {n: v.clone() for n, v in state["decay"].items()}


@torch.no_grad()
def decay_of(rows: UnitRows, when: Decaying) -> Tensor:
    """The decay of every unit of a group, [units]: `strength` for the largest, `strength * base` for the smallest.

    >>> t = torch.tensor([[3.0, 4.0], [0.0, 0.0], [2.5, 0.0]])
    >>> decay_of(UnitRows(3, ((t, 0, torch.arange(3)[:, None]),)), Decaying(strength=1.0, base=16.0))
    tensor([ 1., 16.,  4.], dtype=torch.float64)
    """
    norms = rows.inner(rows.values, rows.values).sqrt()
    spread = norms.max() - norms.min()
    return when.strength * when.base ** ((norms.max() - norms) / spread if spread > 0 else torch.zeros_like(norms))


__all__ = ["DecayingUnits", "decay_of"]
