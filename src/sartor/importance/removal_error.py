"""What a layer loses when a set of its inputs is removed, refitted to the others or as it is: in closed form."""

from __future__ import annotations

import torch
from torch import Tensor


def removal_error(gram: Tensor, weight: Tensor, removed: Tensor, *, refit: bool, ridge: float = 1e-3) -> float:
    """Squared error at the outputs of a linear map, summed over them, mean over rows; constants are given back.

    Args:
        gram: [inputs, inputs], covariance of what the layer reads, float64.
        weight: [outputs, inputs].
        removed: indices of inputs.
        refit: whether the layer is refitted to the inputs that stay.
        ridge: added to the diagonal of `gram`, relative to its mean, as in `elimination`.

    Returns:
        With R the inputs removed and K those kept: the trace of W_R G_RR W_R^T, or where the layer is refitted of
        W_R (G_RR - G_RK G_KK^-1 G_KR) W_R^T, what `elimination` adds up for one reader over the units it removes.

    >>> same = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()  # the first two are equal
    >>> w, one, both = torch.ones(1, 3).double(), torch.tensor([0]), torch.tensor([0, 1])
    >>> [round(removal_error(same, w, r, refit=True, ridge=1e-9), 3) for r in (one, both)]
    [0.0, 4.0]
    >>> [round(removal_error(same, w, r, refit=False, ridge=1e-9), 3) for r in (one, both)]
    [1.0, 4.0]
    """
    stays = torch.ones(len(gram), dtype=torch.bool, device=gram.device)
    stays[removed] = False
    g = gram + ridge * gram.diagonal().mean().clamp(min=1e-30) * torch.eye(len(gram), dtype=gram.dtype).to(gram.device)
    lost, across = g[~stays][:, ~stays], g[stays][:, ~stays]
    if refit and len(across):
        factor = torch.linalg.cholesky(g[stays][:, stays])
        half = torch.linalg.solve_triangular(factor, across, upper=False)
        lost = lost - half.T @ half
    w = weight[:, ~stays]
    return float(((w @ lost) * w).sum())
