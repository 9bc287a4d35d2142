"""L2 magnitude."""

from torch import Tensor

from sartor.importance.registry import criterion


@criterion("l2", source="He et al. 2018 (soft filter pruning), arXiv:1808.06866")
def l2(weight: Tensor) -> Tensor:
    """Euclidean norm of the weights.

    Args:
        weight: [units, rest].

    Returns:
        [units], >= 0; doubling a unit's weights doubles its score.

    Source: He et al. 2018, arXiv:1808.06866, where only the filters that write a unit are read (`reduce="producer"`).
    With `reduce="sum"` the norms of all tensors of a unit are added.

    >>> import torch
    >>> l2(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
    tensor([5., 1.])
    """
    return weight.norm(dim=1)
