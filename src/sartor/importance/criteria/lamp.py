"""Magnitude adapted to the layer."""

import torch
from torch import Tensor

from sartor.importance.registry import criterion


@criterion("lamp", source="Lee et al. 2021, arXiv:2010.07611", compares=True)
def lamp(weight: Tensor) -> Tensor:
    """Squared norm divided by the sum of all squared norms that are not smaller.

    Args:
        weight: [units, rest], all units of one layer.

    Returns:
        [units], float64, in [0, 1]: 1 for a largest unit without an equal; units of equal norm share one score; a
        unit of zeros scores 0. In the order of norms, and comparable between layers as it stands.

    Source: Lee et al. 2021, arXiv:2010.07611: W[u]^2 / sum over v >= u of W[v]^2, weights in ascending order. There a
    unit is a single weight, and equal ones are ordered by their index.

    >>> import torch
    >>> lamp(torch.tensor([[1.0], [2.0], [1.0]]))
    tensor([0.1667, 1.0000, 0.1667], dtype=torch.float64)
    """
    squared = weight.double().square().sum(1)
    ascending, order = squared.sort()
    tails = ascending.flip(0).cumsum(0).flip(0)[torch.searchsorted(ascending, ascending)]
    scores = torch.where(ascending > 0, ascending / torch.where(ascending > 0, tails, 1.0), 0.0)
    return torch.empty_like(scores).scatter_(0, order, scores)
