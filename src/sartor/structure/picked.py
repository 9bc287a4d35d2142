"""The kept indices of several dimensions of a tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_LARGE = 4  # elements behind two dimensions from which copying them together takes less time than one after the other


def picked(t: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """The kept indices of each dimension as a new tensor; the tensor itself where no dimension is given.

    Args:
        t: any tensor.
        kept: indices by dimension, int64.
    """
    if set(kept) == {0, 1} and t.dim() > 2 and t.is_contiguous() and t[0, 0].numel() >= _LARGE:
        rows, columns = (kept[d].to(t.device) for d in (0, 1))
        flat = (rows[:, None] * t.shape[1] + columns).reshape(-1)
        out = t.new_empty(rows.numel(), columns.numel(), *t.shape[2:])
        torch.index_select(t.flatten(0, 1), 0, flat, out=out.flatten(0, 1))
        return out
    for d, index in kept.items():
        t = t.index_select(d, index.to(t.device))
    return t


__all__ = ["picked"]
