"""First-order Taylor expansion of the loss."""

from torch import Tensor

from sartor.importance.registry import Sampling, criterion


@criterion("taylor", source="Molchanov et al. 2019, arXiv:1906.10771", sampling=Sampling(batch=100))
def taylor(weight: Tensor, grad: Tensor) -> Tensor:
    """Squared first-order change of the loss when the weights become zero.

    Args:
        weight: [units, rest].
        grad: [units, rest], the gradient of a mini-batch's mean loss; scores are averaged over mini-batches.

    Returns:
        [units], >= 0: (sum over rest of grad * weight) ** 2. A unit the loss does not depend on scores 0.

    Source: Molchanov et al. 2019, arXiv:1906.10771, eq. 8 (the square of the summed contribution of a whole filter),
    with the gradient averaged over a mini-batch, as in its section 3.2. Scores therefore depend on the size of the
    mini-batch: the smaller, the more the variance of the samples' gradients counts. Batches of fewer than 100 samples
    are joined, larger ones are taken as they come; `group-fisher` squares each sample's own gradient.
    There one tensor is read, a gate or the filter; here each tensor of a unit is scored and then reduced.

    >>> import torch
    >>> taylor(torch.tensor([[1.0, 2.0], [1.0, 1.0]]), torch.tensor([[3.0, -1.0], [1.0, -1.0]]))
    tensor([1., 0.])
    """
    return (grad * weight).sum(1).square()
