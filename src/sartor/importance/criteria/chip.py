"""Channel independence: what a channel adds to the nuclear norm of its layer's maps."""

import torch
from torch import Tensor

from sartor.importance.registry import Sampling, criterion
from sartor.importance.spectral import nuclear_drops

CHUNK = 2**22  # numbers of float64 held at once for one group of samples


@criterion("chip", source="Sui et al. 2021 (CHIP), arXiv:2110.13981", sampling=Sampling(samples=256), compares=True)
def chip(activation: Tensor) -> Tensor:
    """Nuclear norm of a sample's maps minus that without the channel, mean over samples.

    A channel that the others of its layer can express adds little, however strong it is.

    Args:
        activation: [channels, samples, rest], what readers of one layer take in, thus after the nonlinearity.

    Returns:
        [units], float64, >= 0: of a dead channel exactly 0, and at most the mean norm of the channel's map.

    Source: Sui et al. 2021, arXiv:2110.13981, eq. 2 and 3, exact here by one eigendecomposition a sample (see
    `spectral.nuclear_drops`); theirs takes a decomposition a channel, after rounding the maps to four decimals. They
    average over 640 augmented training images; order and set are stable from 64 images on, so at most 256 are
    read. Their released code scores each block's output by itself, so that blocks of one stage keep different channels
    of the stream; here the channels of a stream are scored at every place where it is read, and reduced. A layer's
    channels at a place are those that the writers of the stream write: channels that a concatenation puts beside them
    belong to other layers.

    >>> chip(torch.tensor([[[3.0, 0.0]], [[0.0, 4.0]], [[0.0, 0.0]]])).round(decimals=8)
    tensor([3., 4., 0.], dtype=torch.float64)
    """
    units, samples, rest = activation.shape
    some = max(1, CHUNK // (units * (max(units, rest) + 112)))
    maps = activation.movedim(1, 0)
    total = torch.zeros(units, dtype=torch.float64, device=activation.device)
    for low in range(0, samples, some):
        total += nuclear_drops(maps[low : low + some]).sum(0)
    return total / samples
