"""Spectral measures of matrices whose rows are channels or samples: pure functions, batched, float64.

What each row adds to the nuclear norm, what a set of rows adds together, the order in which rows are best removed, and
the entropy of a kernel matrix. One eigendecomposition serves all rows.

With G = A A^T, zeroing row i takes row and column i out of G, and by Jacobi's identity
det(G_{-i} + t) / det(G + t) = [(G + t)^-1]_ii. Since sqrt(x) = 1/(2 pi) int_0^inf t^-1/2 log(1 + x/t) dt, with t = s^2,

    ||A||_* - ||A with row i zeroed||_* = -1/pi int_0^inf log r_i(s) ds,
    r_i(s) = s^2 [(G + s^2)^-1]_ii = sum_k u_ik^2 s^2 / (lambda_k + s^2),

one minus the ridge leverage score of row i at ridge s^2. With s = sigma_max e^v the integrand is analytic in
|Im v| < pi/2, so the trapezoid rule converges geometrically; what lies above the last node is a geometric series.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sartor.errors import BadInput

STEP, LOW, NODES = 0.35, -31.0, 112  # nodes v = LOW + STEP * p, up to about 8
CUT = 1e-14  # eigenvalues below this share of the largest are zero


def nuclear_drops(matrices: Tensor) -> Tensor:
    """What every row adds to the nuclear norm of its matrix: ||A||_* - ||A with the row zeroed||_*.

    Args:
        matrices: [..., c, n].

    Returns:
        [..., c], float64, >= 0; a row of zeros adds exactly 0, and no row adds more than its own length. Against the
        definition by singular values in float64: to 1e-11 relative where the rows are independent, 1e-8 otherwise.

    Source: derived above; the quantity is the channel independence of Sui et al. 2021, arXiv:2110.13981, eq. 2.

    >>> nuclear_drops(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]])).round(decimals=8)
    tensor([3., 4., 0.], dtype=torch.float64)
    """
    a = _checked(matrices)
    lead, (c, n) = a.shape[:-2], a.shape[-2:]
    a = a.reshape(-1, c, n)
    length = a.square().sum(2)  # [b, c]
    if n >= c:
        values, vectors = torch.linalg.eigh(a @ a.mT)
        share, null = vectors.square(), None  # [b, c, k]
    else:  # the other Gram matrix is smaller; what its vectors leave of a unit vector is null mass
        values, vectors = torch.linalg.eigh(a.mT @ a)
        live = values > CUT * values[:, -1:]
        share = (a @ vectors).square() / torch.where(live, values, torch.inf)[:, None]
        null = (1 - share.sum(2, keepdim=True)).clamp(min=0)  # [b, c, 1]
    values, top = _relative(values)
    s = _nodes(a)
    kernel = s.square() / (values[:, :, None] + s.square())  # [b, k, p]
    r = share @ kernel
    if null is not None:
        r = r + null
    return _integral(r, length, top).reshape(*lead, c)


def joint_drop(matrices: Tensor, rows: Tensor) -> Tensor:
    """What a set of rows adds to the nuclear norm together: ||A||_* - ||A with all of them zeroed||_*.

    Args:
        matrices: [..., c, n].
        rows: indices, each once, or a bool mask [c].

    Returns:
        [...], float64, >= 0. Of one row, what `nuclear_drops` gives. By the definition: for one set, two singular value
        decompositions cost no more than an integral.

    >>> joint_drop(torch.eye(3), torch.tensor([0, 2]))
    tensor(2., dtype=torch.float64)
    """
    a = _checked(matrices)
    stays = torch.ones(a.shape[-2], dtype=torch.bool, device=a.device)
    stays[rows] = False
    whole = torch.linalg.svdvals(a).sum(-1)
    return whole - torch.linalg.svdvals(a[..., stays, :]).sum(-1) if bool(stays.any()) else whole


def elimination_order(matrices: Tensor, count: int | None = None) -> Tensor:
    """Rows in the order in which they are best removed one after the other, each time the one that adds least.

    Each step computes `nuclear_drops` of the rows that are left. Updating the inverse at every node instead costs as
    much memory traffic as a fresh decomposition costs arithmetic, and loses all digits once the rows become
    independent.

    Args:
        matrices: [c, n], or [b, c, n]: what a row adds is then its mean over the b matrices.
        count: how many rows to remove; None: all of them.

    Returns:
        [count], int64; the first is removed first; ties by index.

    >>> elimination_order(torch.diag(torch.tensor([2.0, 1.0, 3.0]))).tolist()
    [1, 0, 2]
    """
    a = _checked(matrices)
    a = a.reshape(-1, *a.shape[-2:])
    left = list(range(a.shape[1]))
    count = len(left) if count is None else count
    if not 0 <= count <= len(left):
        raise BadInput(f"elimination order: expected between 0 and {len(left)} rows to give up; got {count}")
    order = [left.pop(int(nuclear_drops(a[:, left]).mean(0).argmin())) for _ in range(count)]
    return torch.tensor(order, dtype=torch.int64)


def entropy(kernels: Tensor) -> Tensor:
    """Entropy of kernel matrices in bits: -sum lambda log2 lambda of the eigenvalues of K / tr K.

    Args:
        kernels: [..., b, b], symmetric, positive semi-definite, with a positive trace.

    Returns:
        [...], float64, in [0, log2 b]: log2 b for the identity, 0 for rank one.

    Source: Sanchez Giraldo et al. 2015, arXiv:1211.2459, matrix-based Renyi entropy in the limit alpha -> 1.

    >>> entropy(torch.eye(8)), entropy(torch.ones(8, 8)).round(decimals=6).abs()
    (tensor(3., dtype=torch.float64), tensor(0., dtype=torch.float64))
    """
    k = kernels.double()
    return spectral_entropy(torch.linalg.eigvalsh(k) / k.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True))


def spectral_entropy(shares: Tensor) -> Tensor:
    """-sum p log2 p over the last dimension; shares of zero, and negative ones of rounding, count nothing."""
    p = shares.clamp(min=0)
    return -torch.special.xlogy(p, p).sum(-1) / math.log(2)


def _checked(matrices: Tensor) -> Tensor:
    if matrices.dim() < 2 or 0 in matrices.shape[-2:]:
        raise BadInput(f"expected matrices [..., rows, columns] with at least one of each; got {tuple(matrices.shape)}")
    return matrices.double()


def _nodes(like: Tensor) -> Tensor:
    return torch.exp(LOW + STEP * torch.arange(NODES, dtype=torch.float64, device=like.device))


def _relative(values: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues over their largest, those below the cut as 0; and the largest singular value, [b, 1]."""
    top = values[:, -1:]
    shares = values / torch.where(top > 0, top, 1.0)
    return torch.where(shares > CUT, shares, 0.0), top.clamp(min=0).sqrt()


def _integral(r: Tensor, length: Tensor, top: Tensor) -> Tensor:
    """-1/pi times the integral of log r over s, from r [b, c, p] at the nodes relative to top [b, 1]; [b, c]."""
    s = _nodes(r)
    inside = -(r.clamp(min=1e-300).log() @ (STEP * s))
    series = STEP / (s[-1] * math.expm1(STEP))  # of 1 / s over the nodes beyond the last
    beyond = length / torch.where(top > 0, top, 1.0).square() * series
    return torch.where(length > 0, ((inside + beyond) * top / math.pi).clamp(min=0), 0.0)
