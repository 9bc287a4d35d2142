"""Groups whose units are pairs: an inner unit and the outer unit it lies in, for criteria to score unchanged."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property

from torch import Tensor

from sartor.errors import BadInput
from sartor.structure import Graph, Site
from sartor.structure.axes import Axis, find
from sartor.structure.calls import Value
from sartor.structure.fibres import Lines, joint, lines, pairs
from sartor.types import Member

UNSEEN = ("gap", "reads")  # what a criterion cannot read of pairs, because it is computed from leaves


@dataclass(frozen=True)
class Pairs(Graph):
    """A graph of which some groups stand for [units of H * units of D] of a leaf D that may be fibred over H.

    It is for reading tensors and activations: nothing can be cut by it, and activations are read only where one
    dimension carries both leaves.
    """

    over: Mapping[str, Axis] = field(default_factory=dict)  # group -> H

    def positions(self, group: str, member: Member) -> Tensor:
        """Not for pairs: they may lie in two dimensions.

        Raises:
            BadInput: always.
        """
        raise BadInput(f"group {group!r}: pairs of units have no positions along one dimension; ask for `unit_view`")

    def unit_view(self, group: str, member: Member, tensor: Tensor) -> Tensor:
        """Everything of a member's tensor (or its gradient) that belongs to each pair: [pairs, rest]."""
        where = next(x for x in self._lines(group, self.tensors[member.tensor]) if x.dim == member.dim)
        return joint(where, self.over[group], tensor)

    def read_view(self, group: str, value: Value, tensor: Tensor) -> Tensor | None:
        """What belongs to each pair in the last dimension that carries the leaf: [pairs, rest]; None: none does."""
        places = self._lines(group, value)
        return joint(places[-1], self.over[group], tensor) if places else None

    @cached_property
    def _sites(self) -> dict[Axis, tuple[list[Site], list[Site]]]:
        plain = self._sites_of(self.leaves.values())
        return {
            find(leaf): (self._together(n, plain[find(leaf)][0]), self._together(n, plain[find(leaf)][1]))
            for n, leaf in self.leaves.items()
        }

    def _together(self, group: str, sites: Iterable[Site]) -> list[Site]:
        joined = []
        for site in sites:
            op = self.ops[site.op]
            value = op.outputs[0] if site.slot == "out" else next(a for a in op.args if isinstance(a, Value))
            for where in self._lines(group, value):
                if where.dim == site.dim and where.along is None:
                    joined.append(replace(site, positions=pairs(where, self.over[group])))
        return joined

    def _lines(self, group: str, value: Value) -> list[Lines]:
        return lines(value, find(self.leaves[group]), self.over[group])


def paired(graph: Graph, groups: Iterable[str]) -> Pairs:
    """The view in which these groups, all of them fibrable, are groups of pairs; the others are left out."""
    over = {n: graph.fibres[n] for n in groups}
    same = {f.name: getattr(graph, f.name) for f in fields(Graph)}
    view = {
        "groups": {n: replace(graph.groups[n], units=graph.groups[n].units * h.size) for n, h in over.items()},
        "leaves": {n: graph.leaves[n] for n in over},
    }
    return Pairs(**{**same, **view}, over=over)
