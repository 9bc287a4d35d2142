"""A part of a cost at widths between whole numbers: multilinear, so that it has a gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sartor.cost.parts import Part


def interpolated(part: Part, widths: Mapping[str, Tensor], units: Mapping[str, int], step: int) -> Tensor:
    """The cost of a part, multilinear between the corners of the grid cell that the widths lie in.

    Args:
        part: costs kept units of its groups.
        widths: scalars by group, in units kept (fractions allowed); a group not named is whole.
        units: of every group of the part.
        step: distance of the grid's widths.

    Returns:
        A scalar in float64, differentiable in the widths.
    """
    if not any(g in widths for g in part.groups):
        return torch.tensor(part.cost(*(units[g] for g in part.groups)), dtype=torch.float64)
    one = torch.ones((), dtype=torch.float64)
    cells: list[list[tuple[int, Tensor]]] = []  # for every group: grid widths, with their weights
    for g in part.groups:
        if g not in widths:
            cells.append([(units[g], one)])
            continue
        w = widths[g].reshape(()).double()
        n = min(max(float(w.detach()), 1.0), float(units[g]))
        low = max(1, math.floor(n / step) * step)
        high = min(units[g], max(low + 1, math.floor(n / step) * step + step))
        if high <= low:
            low = max(1, high - step)
        if high == low:
            cells.append([(high, one)])
            continue
        share = ((w - low) / (high - low)).clamp(0, 1) if low < high else one
        cells.append([(low, 1 - share), (high, share)])
    total = torch.zeros((), dtype=torch.float64)
    for corner in itertools.product(*cells):
        weight = one
        for _, w in corner:
            weight = weight * w.cpu()
        total = total + weight * part.cost(*(n for n, _ in corner))
    return total
