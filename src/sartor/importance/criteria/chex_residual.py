"""How far a filter lies from what the other filters of its layer span."""

from torch import Tensor

from sartor.importance.columns import distances_to_others
from sartor.importance.registry import criterion


@criterion("chex-residual", source="Hou et al. 2022 (CHEX), arXiv:2203.15794", reads=("out",), compares=True)
def chex_residual(weight: Tensor, *, ridge: float = 0.01) -> Tensor:
    """Distance of each filter to the span of the others: small where they can replace it.

    Args:
        weight: [filters, rest], the filters of one layer.
        ridge: price of large coefficients, relative to the mean squared norm. It keeps the score graded where filters
            depend on each other (always so with rest < units), and counts a stand-in less that needs huge coefficients.

    Returns:
        [units], float64, between 0 and the norm of the filter, which an orthogonal filter reaches. The square is
        G_jj - G_jO (G_OO + mu I)^-1 G_Oj, O the other units, G = weight @ weight.T.

    Source: the distance of Hou et al. 2022, arXiv:2203.15794, which measures removed channels against the kept
    ones to decide which to regrow. Here, before anything is removed, each filter is measured against all others.

    >>> import torch
    >>> chex_residual(torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor([3., 1.], dtype=torch.float64)
    """
    w = weight.double()
    return distances_to_others(w @ w.T, ridge).sqrt()
