"""What a cut network is repaired against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from sartor.structure import Graph
from sartor.structure.axes import Axis
from sartor.structure.graph import Resolved
from sartor.structure.unfibre import straight
from sartor.types import Plan


@dataclass(frozen=True)
class Original:
    """The network before a cut, and the cut."""

    model: nn.Module  # borrowed
    graph: Graph  # of the model
    plan: Plan | Resolved  # by which the smaller network was cut

    def renumbered(self) -> Original:
        """The same with inner units in the order of the cut network, so that the plan has no fibres; see `unfibre`."""
        model, resolved = straight(self.model, self.graph, self.plan)
        return Original(model, self.graph, resolved)

    @property
    def masks(self) -> Mapping[Axis, Tensor]:
        """Which units stay, by leaf of the axes that are cut."""
        return self.graph.resolve(self.plan).masks
