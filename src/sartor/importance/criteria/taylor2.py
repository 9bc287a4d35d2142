"""Taylor expansion of the loss to second order, weight by weight."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion("taylor2", source="Ma et al. 2023 (LLM-Pruner), arXiv:2305.11627")
def taylor2(weight: Tensor, mean_grad: Tensor, fisher: Tensor) -> Tensor:
    """Change of the loss to second order as each weight becomes zero, absolute values summed.

    Args:
        weight: [units, rest].
        mean_grad: [units, rest], the gradient of the mean loss of all samples.
        fisher: [units, rest], the mean over samples of the squared gradient of each sample's loss.

    Returns:
        [units], float64, >= 0: sum over rest of |-mean_grad * weight + 0.5 * fisher * weight^2|. Weights that the loss
        does not depend on add nothing.

    Source: Ma et al. 2023, arXiv:2305.11627, the element-wise importance with the Hessian's diagonal approximated by
    squared gradients of samples, added over the unit's weights; losses are means over samples here, sums there.

    >>> import torch
    >>> w, g = torch.tensor([[1.0, 1.0], [2.0, 0.0]]), torch.tensor([[1.0, -1.0], [1.0, 5.0]])
    >>> taylor2(w, g, g.square())
    tensor([2., 0.], dtype=torch.float64)
    """
    w = weight.double()
    return (0.5 * fisher.double() * w.square() - mean_grad.double() * w).abs().sum(1)
