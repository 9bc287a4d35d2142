"""Taylor expansion of the loss to second order, weight by weight."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion("taylor2", source="Ma et al. 2023 (LLM-Pruner), arXiv:2305.11627")
def taylor2(weight: Tensor, grad: Tensor) -> Tensor:
    """Change of the loss to second order as each weight becomes zero, absolute values summed.

    Args:
        weight: [units, rest].
        grad: [units, rest], the gradient of one batch's mean loss; scores are averaged over batches.

    Returns:
        [units], float64, >= 0: sum over rest of |-grad * weight + 0.5 * h * weight^2| with h = grad^2, the empirical
        Fisher diagonal of the batch. Weights that the loss does not depend on add nothing.

    Source: Ma et al. 2023, arXiv:2305.11627, the element-wise importance, added over the unit's weights. There h
    averages squared gradients of samples; here it is that of the batch mean, which is smaller: with batches of one
    sample they agree.

    >>> import torch
    >>> taylor2(torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0, -1.0], [1.0, 5.0]]))
    tensor([2., 0.], dtype=torch.float64)
    """
    first = grad.double() * weight.double()
    return (0.5 * first.square() - first).abs().sum(1)
