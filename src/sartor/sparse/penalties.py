"""Penalties as additions to gradients: a user's loss needs no line for them.

Every function takes the weights and returns the gradient of its penalty, without the strength that multiplies it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from sartor.errors import BadInput


def reweighted(norms_squared: Tensor, epsilon: float) -> Tensor:
    """The factors 1 / (||w_g||^2 + epsilon) of the reweighted penalty: small groups are driven to zero harder.

    Args:
        norms_squared: of the group that each weight belongs to, any shape.
        epsilon: positive.

    Returns:
        The shape of `norms_squared`, in (0, 1 / epsilon].

    Raises:
        BadInput: epsilon is not positive.

    Source: Candes et al. 2008, reweighted minimisation; for structured pruning Zhang et al. 2020, arXiv:2004.05531.

    >>> reweighted(torch.tensor([0.0, 1.0]), 0.5)
    tensor([2.0000, 0.6667])
    """
    if not epsilon > 0:
        raise BadInput(f"reweighted penalty: expected a positive epsilon; got {epsilon}")
    return 1 / (norms_squared + epsilon)


def weighted_square_gradient(weight: Tensor, factors: Tensor) -> Tensor:
    """Gradient of sum of factor * w^2, the factors being constants: 2 * factor * w.

    >>> weighted_square_gradient(torch.tensor([3.0]), torch.tensor([0.5]))
    tensor([3.])
    """
    return 2 * factors * weight


def group_lasso_gradient(weight: Tensor, strengths: Tensor | float = 1.0) -> Tensor:
    """Gradient of sum over rows of strength * ||row||_2: every row is pulled to zero with its own strength.

    Args:
        weight: [groups, rest].
        strengths: [groups], or one for all.

    Returns:
        [groups, rest]; a row of norm `strength`, 0 for a row of zeros.

    Source: Yuan and Lin 2006; for networks Wen et al. 2016, arXiv:1608.03665.

    >>> group_lasso_gradient(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    norm = weight.norm(dim=1, keepdim=True)
    factor = torch.as_tensor(strengths, dtype=weight.dtype, device=weight.device).reshape(-1, 1)
    return factor * weight / torch.where(norm > 0, norm, 1.0)


def growing_strengths(importance: Tensor, most: float = 16.0) -> Tensor:
    """Strengths from 1 for the most important group to `most` for the least, on a logarithmic scale.

    Args:
        importance: [groups], larger = more important.
        most: strength of the least important group, at least 1.

    Returns:
        [groups], most ** ((max - importance) / (max - min)); all 1 if the groups are alike.

    Source: Fang et al. 2023 (DepGraph), arXiv:2301.12900, section 3.3, there with powers of two.

    >>> growing_strengths(torch.tensor([0.0, 1.0, 2.0]))
    tensor([16.,  4.,  1.])
    """
    if not most >= 1:
        raise BadInput(f"growing strengths: expected at least 1 for the least important group; got {most}")
    high, low = importance.max(), importance.min()
    share = (high - importance) / (high - low) if bool(high > low) else torch.zeros_like(importance)
    return most**share


def scale_l1_gradients(scales: Mapping[str, Tensor], macs: Mapping[str, float]) -> dict[str, Tensor]:
    """Gradients of sum over layers of (MACs of a channel / mean) * sum |scale|, for the scales of batch norms.

    Args:
        scales: of every layer, [channels].
        macs: that one channel of the layer costs.

    Returns:
        By layer, [channels]: the sign of each scale times the cost of a channel, whose mean over all channels is 1.

    Raises:
        BadInput: a layer has no cost.

    Source: You et al. 2022 (SuperTickets), arXiv:2207.03677; without costs Liu et al. 2017, arXiv:1708.06519.

    >>> scale_l1_gradients({"a": torch.tensor([-2.0]), "b": torch.tensor([0.5])}, {"a": 30.0, "b": 10.0})
    {'a': tensor([-1.5000]), 'b': tensor([0.5000])}
    """
    missing = [n for n in scales if not macs.get(n, 0) > 0]
    if missing:
        raise BadInput(f"batch-norm penalty: expected the MACs of a channel of {missing[0]!r}, a positive number")
    channels = sum(s.numel() for s in scales.values())
    mean = sum(macs[n] * s.numel() for n, s in scales.items()) / channels
    return {n: s.sign() * (macs[n] / mean) for n, s in scales.items()}


def log_det_penalty(weight: Tensor, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """(log det(W^T W / rows + shift I))^2 and its gradient: a smooth stand-in for the condition number of W.

    Computed by a Cholesky factorisation in float64: the determinant itself would overflow for a hundred columns.

    Args:
        weight: [rows, columns] with at least as many rows as columns, of full column rank unless shift > 0.
        shift: added to the eigenvalues, at least 0.

    Returns:
        The penalty, a scalar of the weight's dtype, 0 where det = 1, and its gradient [rows, columns].

    Raises:
        BadInput: W^T W is singular.

    Source: TSCNC, 2024, there (log(1e-5 + det))^2, whose determinant over- and underflows.

    >>> value, gradient = log_det_penalty(torch.eye(4) * 2)
    >>> float(value), float(gradient.abs().max())
    (0.0, 0.0)
    """
    w = weight.detach().double()
    gram = w.T @ w / w.shape[0]
    if shift:
        gram = gram + shift * torch.eye(w.shape[1], dtype=w.dtype, device=w.device)
    root, failed = torch.linalg.cholesky_ex(gram)
    if bool(failed):
        raise BadInput(
            f"log-det penalty: W^T W of a matrix {list(weight.shape)} is singular; pass a shift, or fewer columns"
        )
    log_det = 2 * root.diagonal().log().sum()
    gradient = 2 * log_det * 2 * torch.cholesky_solve(w.T, root).T / w.shape[0]
    return log_det.square().to(weight.dtype), gradient.to(weight.dtype)


__all__ = [
    "group_lasso_gradient", "growing_strengths", "log_det_penalty", "reweighted", "scale_l1_gradients",
    "weighted_square_gradient",
]  # fmt: skip
