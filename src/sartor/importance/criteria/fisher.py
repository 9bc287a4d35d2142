"""Optimal brain damage with the Fisher diagonal in place of the Hessian's."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion("fisher", source="LeCun et al. 1990 (optimal brain damage); Theis et al. 2018, arXiv:1801.05787")
def fisher(weight: Tensor, fisher: Tensor) -> Tensor:
    """Second-order change of the loss when the weights become zero, curvature from squared gradients.

    Args:
        weight: [units, rest].
        fisher: [units, rest], the mean over samples of the squared gradient of each sample's loss: the diagonal of the
            empirical Fisher information, whatever the size of the batches.

    Returns:
        [units], float64, >= 0: 0.5 * sum over rest of weight^2 * fisher. The sign of gradients does not matter.

    Source: LeCun et al. 1990, with the empirical Fisher of Theis et al. 2018, arXiv:1801.05787, who differentiate by a
    feature map's gate (`group-fisher` here); this is the sum over single weights.

    >>> import torch
    >>> fisher(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[4.0, 1.0], [9.0, 0.0]]))
    tensor([4., 0.], dtype=torch.float64)
    """
    return 0.5 * (weight.double().square() * fisher.double()).sum(1)
