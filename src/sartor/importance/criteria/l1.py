"""L1 magnitude."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion("l1", source="Li et al. 2017, arXiv:1608.08710")
def l1(weight: Tensor) -> Tensor:
    """Sum of absolute weights.

    Args:
        weight: [units, rest].

    Returns:
        [units], >= 0; doubling a unit's weights doubles its score.

    Source: Li et al. 2017, arXiv:1608.08710, where only the filters that write a unit are read (`reduce="producer"`).

    >>> import torch
    >>> l1(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
    tensor([7., 1.])
    """
    return weight.abs().sum(1)
