"""Masks of the leaves that a cut removes units from, and what follows from them for every other axis."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import cached_property

import torch
from torch import Tensor

from sartor.structure.axes import Axis, find, joined_mask


class Masks(Mapping[Axis, Tensor]):
    """Leaf -> bool [units], true for units that stay. Sizes and masks of other axes are computed once each.

    The axes must be solved: what was computed for an axis is not computed again if the axis is refined later.
    """

    def __init__(self, leaves: Mapping[Axis, Tensor]):
        self._of_leaf = dict(leaves)
        self._sizes: dict[Axis, int] = {}
        self._masks: dict[Axis, Tensor] = {}
        self._kept: dict[Axis, Tensor] = {}

    @classmethod
    def of(cls, masks: Mapping[Axis, Tensor]) -> Masks:
        """The same masks as this class; what is of this class already comes back with all that it computed."""
        return masks if isinstance(masks, Masks) else cls(masks)

    def __getitem__(self, leaf: Axis) -> Tensor:
        return self._of_leaf[leaf]

    def __iter__(self) -> Iterator[Axis]:
        return iter(self._of_leaf)

    def __len__(self) -> int:
        return len(self._of_leaf)

    @cached_property
    def counts(self) -> dict[Axis, int]:
        """Units that stay, by leaf."""
        return {leaf: int(mask.sum()) for leaf, mask in self._of_leaf.items()}

    def size(self, a: Axis) -> int:
        """The size of an axis after the cut; see `axes.new_size`."""
        a = find(a)
        if a.frozen:
            return a.size
        if a.kind is None:
            return self.counts.get(a, a.size)
        known = self._sizes.get(a)
        if known is None:
            kids = [self.size(k) for k in a.kids]
            known = self._sizes[a] = math.prod(kids) if a.kind == "p" else sum(kids)
        return known

    def is_whole(self, a: Axis) -> bool:
        """Whether every position of an axis stays."""
        return self.size(a) == find(a).size

    def mask(self, a: Axis) -> Tensor:
        """Which positions of an axis stay, bool [size]; see `axes.keep_mask`. Must not be changed in place."""
        a = find(a)
        if a.kind is None and not a.frozen and a in self._of_leaf:
            return self._of_leaf[a]
        known = self._masks.get(a)
        if known is None:
            known = self._masks[a] = self._joined(a)
        return known

    def kept(self, a: Axis) -> Tensor:
        """The positions of an axis that stay, int64, ascending. Must not be changed in place."""
        a = find(a)
        known = self._kept.get(a)
        if known is None:
            known = self._kept[a] = self.mask(a).nonzero()[:, 0]
        return known

    def _joined(self, a: Axis) -> Tensor:
        if a.frozen or a.kind is None or self.is_whole(a):
            return torch.ones(a.size, dtype=torch.bool)
        return joined_mask(a, [self.mask(k) for k in a.kids])


__all__ = ["Masks"]
