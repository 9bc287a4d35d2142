"""Fisher information of the gate of a unit."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion("group-fisher", source="Liu et al. 2021, arXiv:2108.00708; Theis et al. 2018, arXiv:1801.05787")
def group_fisher(contribution: Tensor) -> Tensor:
    """Mean squared derivative of the loss by a gate at the unit, half of it: the rise of the loss as it closes.

    Args:
        contribution: [units, samples], of each sample's loss: gradient times activation, added over the places where
            the unit is read and over its positions.

    Returns:
        [units], float64, >= 0: 0.5 * mean over samples of contribution^2.

    Source: Liu et al. 2021, arXiv:2108.00708, for coupled layers; Theis et al. 2018, arXiv:1801.05787, for one. The
    former divide by the memory that a unit frees; the recipe here divides by MACs.

    >>> import torch
    >>> group_fisher(torch.tensor([[1.0, -3.0], [0.0, 0.0]]))
    tensor([2.5000, 0.0000], dtype=torch.float64)
    """
    return 0.5 * contribution.double().square().mean(1)
