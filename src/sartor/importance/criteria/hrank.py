"""Rank of feature maps."""

import math

import torch
from torch import Tensor

from sartor.importance.registry import Sampling, criterion


@criterion("hrank", source="Lin et al. 2020, arXiv:2002.10179", sampling=Sampling(samples=500))
def hrank(activation: Tensor) -> Tensor:
    """Mean rank of the maps a unit emits, each taken as a matrix.

    Args:
        activation: [units, samples, rest], values at one place of the network, maps laid out row by row. A map is
            folded to the rectangle nearest to a square whose first side is not the longer: exact for square maps; a
            sequence becomes a matrix of consecutive pieces; a vector of prime length has rank 0 or 1.

    Returns:
        [units], float64, between 0 and the shorter side. The scale of a unit does not matter; a dead unit scores 0.

    Source: Lin et al. 2020, arXiv:2002.10179, who find the order stable after 500 images: no more are read.
    Singular values below the precision of the numbers given, relative to the largest, count as zero.

    >>> import torch
    >>> hrank(torch.stack([torch.eye(3).flatten(), torch.ones(9)])[:, None])
    tensor([3., 1.], dtype=torch.float64)
    """
    units, samples, rest = activation.shape
    first = next(h for h in range(math.isqrt(rest), 0, -1) if rest % h == 0)
    maps = activation.float() if activation.itemsize < 4 else activation
    maps = maps.reshape(units * samples, first, rest // first)
    precision = rest // first * torch.finfo(activation.dtype).eps
    ranks = [_ranks(chunk, precision) for chunk in maps.split(8192)]
    return torch.cat(ranks).reshape(units, samples).mean(1)


def _ranks(maps: Tensor, precision: float) -> Tensor:
    sizes = torch.linalg.svdvals(maps)
    return (sizes > precision * sizes[:, :1]).sum(1).double()
