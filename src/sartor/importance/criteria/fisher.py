"""Optimal brain damage with the Fisher diagonal in place of the Hessian's."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion("fisher", source="LeCun et al. 1990 (optimal brain damage); Theis et al. 2018, arXiv:1801.05787")
def fisher(weight: Tensor, grad: Tensor) -> Tensor:
    """Second-order change of the loss when the weights become zero, curvature from squared gradients.

    Args:
        weight: [units, rest].
        grad: [units, rest], the gradient of one batch's mean loss; scores are averaged over batches, so that
            grad ** 2 becomes an estimate of the Fisher diagonal.

    Returns:
        [units], float64, >= 0: 0.5 * sum over rest of weight^2 * grad^2. The sign of gradients does not matter.

    Source: LeCun et al. 1990, with the empirical Fisher of Theis et al. 2018, arXiv:1801.05787. There a
    gradient is that of one sample. Gradients of batches of B samples give about 1 / B of it where they cancel, which
    scales all scores alike; batches of one sample give the definition.

    >>> import torch
    >>> fisher(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[2.0, -1.0], [3.0, 0.0]]))
    tensor([4., 0.], dtype=torch.float64)
    """
    return 0.5 * (weight.double() * grad.double()).square().sum(1)
