"""Trial cuts: masks that leave every group another share, so that a size which should follow a cut shows."""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import cached_property

import torch
from torch import Tensor

from sartor.structure.axes import find, leaves
from sartor.structure.graph import Graph
from sartor.structure.masks import Masks
from sartor.structure.subgraph import joined
from sartor.surgery.attributes import Claims

_SHIFTS = (0.618034, 0.414214)  # of the two trials: sizes that are equal by chance in one differ in the other
_LOW, _HIGH = 0.4, 0.9  # shares of the units that a trial cut keeps
TRIALS = len(_SHIFTS)


class Trials:
    """The trial cuts of a graph."""

    def __init__(self, graph: Graph, claims: Claims):
        self.leaves = graph.leaves
        self.names = {find(leaf): name for name, leaf in graph.leaves.items()}
        self.claims = claims

    def masks(self, trial: int, ties: Sequence[frozenset[str]], gone: Container[str]) -> Masks:
        """The masks of a trial cut: another share of every group, equal counts of tied ones.

        Groups that claim one attribute keep different counts; where they have too few units, one of them stays whole,
        in the other trial the other one.

        Args:
            trial: its number, below `TRIALS`.
            ties: groups that must keep equal counts.
            gone: groups that stay whole.
        """
        group_of = {n: t for t in joined([tuple(n for n in self.leaves if n in t) for t in ties]) for n in t}
        counts: dict[str, int] = {}
        places = list(enumerate(self.leaves.items()))
        for i, (name, leaf) in reversed(places) if trial else places:
            tied = group_of.get(name, (name,))
            if name in gone or name in counts:
                continue
            size = find(leaf).size
            share = _LOW + (_HIGH - _LOW) * ((i + 1) * _SHIFTS[trial] % 1)
            wanted = min(size - 1, max(1, round(size * share)))
            taken = {counts.get(n) for t in tied for n in self._rivals.get(t, ()) if n not in tied}
            nearest = sorted(range(1, size), key=lambda k: abs(k - wanted)) if wanted in taken else [wanted]
            count = next((k for k in nearest if k not in taken), size)
            counts.update((n, count) for n in tied if n not in gone)
        sizes = {n: find(leaf).size for n, leaf in self.leaves.items() if n in counts}
        return Masks({find(self.leaves[n]): _mask(k, counts[n]) for n, k in sizes.items() if counts[n] < k})

    @cached_property
    def _rivals(self) -> dict[str, set[str]]:
        """Group -> groups with as many units that claim one of the attributes it claims."""
        found: dict[str, set[str]] = {}
        for claims in self.claims.by_value.values():
            leaves_here = {leaf for c in claims for p in c.size.parts for leaf in map(find, leaves(p.axis))}
            by_size: dict[int, set[str]] = {}
            for leaf in leaves_here & self.names.keys():
                by_size.setdefault(leaf.size, set()).add(self.names[leaf])
            for same in by_size.values():
                for name in same if len(same) > 1 else ():
                    found.setdefault(name, set()).update(same - {name})
        return found


def _mask(size: int, count: int) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.randperm(size, generator=torch.Generator().manual_seed(size))[:count]] = True
    return mask


__all__ = ["TRIALS", "Trials"]
