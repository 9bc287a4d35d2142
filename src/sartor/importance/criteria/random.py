"""Random scores, the baseline."""

import torch
from torch import Generator, Tensor

from sartor.importance.registry import criterion


@criterion("random", source="baseline; Mittal et al. 2018, arXiv:1801.10447", equivariant=False)
def random(units: int, generator: Generator) -> Tensor:
    """Uniform random numbers: the baseline that a criterion has to beat.

    Args:
        units: how many.
        generator: seeded by the recipe's seed and the group's name, so that no group changes another's.

    Returns:
        [units], in [0, 1).

    Source: Mittal et al. 2018, arXiv:1801.10447, on how strong a baseline this is after fine-tuning.

    >>> bool((random(3, torch.Generator().manual_seed(0)) < 1).all())
    True
    """
    return torch.rand(units, generator=generator, dtype=torch.float64)
