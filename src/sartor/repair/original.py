"""What a cut network is repaired against."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from sartor.structure import Graph
from sartor.structure.unfibre import straight
from sartor.types import Plan


@dataclass(frozen=True)
class Original:
    """The network before a cut, and the cut."""

    model: nn.Module  # borrowed
    graph: Graph  # of the model
    plan: Plan  # by which the smaller network was cut

    def renumbered(self) -> Original:
        """The same with inner units in the order of the cut network, so that the plan has no fibres; see `unfibre`."""
        model, plan = straight(self.model, self.graph, self.plan)
        return Original(model, self.graph, plan)
