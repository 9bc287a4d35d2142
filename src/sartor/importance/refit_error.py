"""What a layer loses when inputs are removed and it is refitted to the others: one set of inputs, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor


def refit_error(gram: Tensor, weight: Tensor, removed: Tensor, *, ridge: float = 1e-3) -> float:
    """Squared error at the outputs of a linear map, summed over them, mean over rows.

    Args:
        gram: [inputs, inputs], covariance of what the layer reads, float64.
        weight: [outputs, inputs].
        removed: indices of inputs.
        ridge: added to the diagonal of `gram`, relative to its mean, as in `elimination`.

    Returns:
        trace of W_R (G_RR - G_RK G_KK^-1 G_KR) W_R^T, with R the inputs removed and K those kept; what `elimination`
        adds up for one reader over the units it removes.

    >>> same = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]).double()  # the first two are equal
    >>> w = torch.ones(1, 3).double()
    >>> [round(refit_error(same, w, torch.tensor(r), ridge=1e-9), 3) for r in ([0], [2], [0, 1])]
    [0.0, 1.0, 4.0]
    """
    stays = torch.ones(len(gram), dtype=torch.bool, device=gram.device)
    stays[removed] = False
    g = gram + ridge * gram.diagonal().mean().clamp(min=1e-30) * torch.eye(len(gram), dtype=gram.dtype).to(gram.device)
    lost, across = g[~stays][:, ~stays], g[stays][:, ~stays]
    if len(across):
        factor = torch.linalg.cholesky(g[stays][:, stays])
        half = torch.linalg.solve_triangular(factor, across, upper=False)
        lost = lost - half.T @ half
    w = weight[:, ~stays]
    return float(((w @ lost) * w).sum())
