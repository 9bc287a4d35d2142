"""Where the units of a group lie in its parameters, to measure and to scale them unit by unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sartor.structure import Graph
from sartor.types.network import Role


@dataclass(frozen=True)
class UnitRows:
    """Some units of one group, in several parameters."""

    units: int  # how many
    places: tuple[tuple[Tensor, int, Tensor], ...]  # (parameter, dimension, positions [units, times] along it)

    @classmethod
    def of(
        cls, graph: Graph, group: str, parameters: Mapping[str, Tensor], chosen: Tensor,
        roles: Sequence[Role] = ("out", "norm"),
    ) -> UnitRows:  # fmt: skip
        """The chosen units (bool [units of the group]) where they have one of these roles."""
        members = [m for m in graph.groups[group].members if m.role in roles and m.tensor in parameters]
        places = tuple((parameters[m.tensor], m.dim, graph.positions(group, m)[chosen]) for m in members)
        return cls(int(chosen.sum()), places)

    @property
    def values(self) -> list[Tensor]:
        """The parameters, one for each place."""
        return [t for t, _, _ in self.places]

    def inner(self, left: Sequence[Tensor | None], right: Sequence[Tensor | None]) -> Tensor:
        """Inner products of every unit over all places: [units], float64 on the CPU; None counts as zero."""
        total = torch.zeros(self.units, dtype=torch.float64)
        for (_, d, where), a, b in zip(self.places, left, right):
            if a is not None and b is not None:
                sums = (a.double() * b.double()).movedim(d, 0).reshape(a.shape[d], -1).sum(1).cpu()
                total += sums[where].sum(1)
        return total

    def along(self, i: int, factors: Tensor, neutral: float) -> Tensor:
        """One factor a unit as a tensor that multiplies parameter i: `neutral` at everything else."""
        t, d, where = self.places[i]
        row = torch.full((t.shape[d],), neutral, dtype=torch.float64)
        row[where.flatten()] = factors[:, None].expand(where.shape).flatten()
        shape = [1] * t.dim()
        shape[d] = -1
        return row.to(t.device, t.dtype).reshape(shape)


__all__ = ["UnitRows"]
