"""Which rows of a matrix represent the others: leverage for every count at once, distances to spans, regrowth.

A row is one unit's weights; CHEX takes columns of the transpose (column subset selection).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from sartor.errors import BadInput

TIED = 1e-7  # eigenvalues that lie closer, relative to the largest, share one subspace


def leverage(weight: Tensor) -> Tensor:
    """Leverage scores of all rows for every k, from one eigendecomposition of the Gram matrix.

    Args:
        weight: [units, rest].

    Returns:
        [units, units], float64: row k - 1 holds the scores for k, ||V_{j,1:k}||^2, in [0, 1]. It sums to k, or to the
        rank where that is smaller. Identical rows share their score; rows of an orthonormal set score k / units each.
        Where the k-th and the next singular value coincide, the shared subspace counts in proportion, so that no
        arbitrary basis decides.

    Source: Hou et al. 2022 (CHEX), arXiv:2203.15794; Boutsidis et al. 2009, arXiv:0812.4293. V are the
    right singular vectors of the transpose, that is the eigenvectors of weight @ weight.T.

    >>> leverage(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor([[1., 0.],
            [1., 1.]], dtype=torch.float64)
    """
    w = weight.double()
    values, vectors = torch.linalg.eigh(w @ w.T)
    values, squares = values.flip(0), vectors.flip(1).square()
    largest = values[:1].clamp_min(0)
    precision = max(w.shape) * torch.finfo(torch.float64).eps
    squares = squares * (values > precision * largest)
    apart = torch.cat([largest.new_zeros(1), ((values[:-1] - values[1:]) > TIED * largest).double()])
    cluster = apart.cumsum(0).long()  # [units], the subspace each eigenvector belongs to
    sums = squares.new_zeros(squares.shape).index_add_(1, cluster, squares)
    shared = (sums / cluster.bincount(minlength=len(cluster)).clamp_min(1))[:, cluster]
    return shared.cumsum(1).T


def distances_to_kept(gram: Tensor, kept: Sequence[int]) -> Tensor:
    """Squared distance of every row to the span of the kept ones, by one pivoted Cholesky factorisation.

    Args:
        gram: [units, units], weight @ weight.T.
        kept: which units span; they may depend on each other.

    Returns:
        [units], float64, >= 0: G_jj - G_jS G_SS^-1 G_Sj, exactly 0 for kept units; precise to about 1e-14 of G_jj.

    Raises:
        BadInput: an index is none of a unit.

    Source: the Schur complement that stands behind the regrowth of Hou et al. 2022, arXiv:2203.15794.

    >>> distances_to_kept(torch.tensor([[1.0, 1.0], [1.0, 5.0]]), [0])
    tensor([0., 4.], dtype=torch.float64)
    """
    g = gram.double()
    inside = _indices(kept, len(g)).to(g.device)
    left = g.diagonal().clone()
    least = len(g) * torch.finfo(torch.float64).eps * left[inside].max() if len(inside) else left.new_zeros(())
    factor = g.new_zeros(len(g), len(inside))
    for i in range(len(inside)):
        pivot = inside[left[inside].argmax()]
        if left[pivot] <= least:  # the kept units that remain depend on those taken
            break
        column = (g[pivot] - factor[:, :i] @ factor[pivot, :i]) / left[pivot].sqrt()
        factor[:, i] = column
        left = (left - column.square()).clamp_min(0)
        left[pivot] = 0
    left[inside] = 0
    return left


def distances_to_others(gram: Tensor, ridge: float) -> Tensor:
    """Squared distance of every row to the span of all others, at a price for large coefficients.

    Args:
        gram: [units, units], weight @ weight.T.
        ridge: > 0, relative to the mean of G_jj. Small: the plain distance, 1 / (G^-1)_jj where rows are independent.

    Returns:
        [units], float64: min over a of ||w_j - sum_i a_i w_i||^2 + mu ||a||^2 over i != j, with mu = ridge * mean
        G_jj. Between 0 and G_jj; G_jj itself for a row orthogonal to all others. Equal rows score the same.

    Raises:
        BadInput: ridge is not positive.

    >>> distances_to_others(torch.diag(torch.tensor([4.0, 1.0])), 0.1)
    tensor([4., 1.], dtype=torch.float64)
    """
    if not ridge > 0:
        raise BadInput(f"ridge: expected a number > 0; got {ridge}")
    g = gram.double()
    mu = ridge * g.diagonal().mean()
    if mu <= 0:
        return torch.zeros(len(g), dtype=torch.float64, device=g.device)
    factor = torch.linalg.cholesky(g + mu * torch.eye(len(g), dtype=g.dtype, device=g.device))
    # (mu (G + mu)^-1)_jj = 1 - (G (G + mu)^-1)_jj: the ratio of the two loses no digits to a difference
    return torch.cholesky_solve(g, factor).diagonal().clamp_min(0) / torch.cholesky_inverse(factor).diagonal()


def regrow_probabilities(distances: Tensor, kept: Sequence[int]) -> Tensor:
    """With which probability CHEX brings a removed unit back: the farther from the kept ones, the likelier.

    Args:
        distances: [units], distances to the span of the kept ones (the paper squares them, its code does not).
        kept: the units that stay.

    Returns:
        [units], float64, sums to 1: exp(distance_j) / sum of exp over the removed units, 0 for kept ones.

    Raises:
        BadInput: every unit is kept, or an index is none of a unit.

    Source: Hou et al. 2022, arXiv:2203.15794.

    >>> regrow_probabilities(torch.tensor([0.0, 1.0, 1.0]), [0])
    tensor([0.0000, 0.5000, 0.5000], dtype=torch.float64)
    """
    inside = _indices(kept, len(distances)).to(distances.device)
    logits = distances.double().clone()
    logits[inside] = -torch.inf
    if not torch.isfinite(logits).any():
        raise BadInput("regrow: expected at least one removed unit; got all units kept")
    return logits.softmax(0)


def _indices(kept: Sequence[int], units: int) -> Tensor:
    wrong = [int(i) for i in kept if not 0 <= int(i) < units]
    if wrong:
        raise BadInput(f"kept units: expected indices in [0, {units}); got {wrong[0]}")
    return torch.tensor(sorted({int(i) for i in kept}), dtype=torch.long)
