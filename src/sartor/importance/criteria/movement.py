"""Whether a gradient step moves weights away from zero."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion("movement", source="Sanh et al. 2020, arXiv:2005.07683")
def movement(weight: Tensor, mean_grad: Tensor) -> Tensor:
    """Minus gradient times weight, summed: high where descent makes the weights grow, counted from the lowest unit.

    Without training the weights stand still, and the mean over samples is the signed first-order term of the loss: by
    how much it would rise if the unit went. A unit whose removal seems to lower the loss goes before one that does not
    matter, which `taylor` ranks the other way round. Close to a minimum the term is mostly noise.

    Args:
        weight: [units, rest].
        mean_grad: [units, rest], the gradient of the mean loss of all samples.

    Returns:
        [units], float64, >= 0: -sum over rest of mean_grad * weight, minus the lowest of all units, which scores 0.

    Source: Sanh et al. 2020, arXiv:2005.07683: S = -sum over steps of dL/dW * W, there over the steps of a fine-tuning
    and for single weights. The offset keeps scores from being negative; it changes no order within a tensor.

    >>> import torch
    >>> movement(torch.tensor([[1.0, 2.0], [1.0, 1.0]]), torch.tensor([[-3.0, 0.0], [1.0, 0.0]]))
    tensor([4., 0.], dtype=torch.float64)
    """
    moved = -(mean_grad.double() * weight.double()).sum(1)
    return moved - moved.min()
