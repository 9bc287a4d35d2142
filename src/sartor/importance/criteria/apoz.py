"""Average percentage of zeros."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion("apoz", source="Hu et al. 2016 (network trimming), arXiv:1607.03250")
def apoz(activation: Tensor) -> Tensor:
    """Share of activations that are not zero.

    Says something only where readers see what a ReLU leaves: a unit behind another function is hardly ever zero.

    Args:
        activation: [units, samples, rest], values at one place of the network.

    Returns:
        [units], float64, in [0, 1]: one minus the average percentage of zeros. The scale of a unit does not matter.

    Source: Hu et al. 2016, arXiv:1607.03250, eq. 1.

    >>> import torch
    >>> apoz(torch.tensor([[[0.0, 2.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]))
    tensor([0.2500, 1.0000], dtype=torch.float64)
    """
    return (activation != 0).double().mean((1, 2))
