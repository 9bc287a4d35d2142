"""Strength of the activation."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion(
    "activation",
    source="Polyak and Wolf 2015, doi:10.1109/ACCESS.2015.2494536; Molchanov et al. 2017, arXiv:1611.06440",
)
def activation(activation: Tensor) -> Tensor:
    """Mean L2 norm of what a unit emits over the calibration samples.

    Args:
        activation: [units, samples, rest], values at one place of the network.

    Returns:
        [units], >= 0: a unit that never fires scores 0.

    Source: the activation criteria of Polyak and Wolf 2015 and of Molchanov et al. 2017, arXiv:1611.06440, section 2.2
    (there the variance and the mean); the norm is the form that later comparisons use.

    >>> import torch
    >>> activation(torch.tensor([[[3.0, 4.0], [0.0, 1.0]], [[0.0, 0.0], [0.0, 0.0]]]))
    tensor([3., 0.])
    """
    return activation.norm(dim=2).mean(1)
