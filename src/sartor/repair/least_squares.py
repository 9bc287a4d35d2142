"""Ridge least squares for several groups of rows at once."""

from __future__ import annotations

import torch
from torch import Tensor

from sartor.errors import BadInput

CHUNK = 16384  # rows that are summed in single precision


class LeastSquares:
    """Ridge least squares for several groups at once, one factorised Gram matrix for any number of targets."""

    def __init__(self, x: Tensor, weight: Tensor, shift: Tensor, strength: float, *, free: bool, where: str):
        self.free, self.first, self.weight, self.shift = free, weight, weight, shift
        self.mean = column_means(x) if free else x.new_zeros(x.shape[0], x.shape[2], dtype=torch.float64)
        self.centred = x.sub_(self.mean[:, None].to(x))  # in place: rows are the largest part of the memory
        self.gram = self._against(self.centred)
        if not bool(torch.isfinite(self.gram).all()):
            raise BadInput(f"ridge repair, {where}: expected finite activations")
        size = self.gram.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-30)
        eye = torch.eye(x.shape[2], dtype=torch.float64, device=x.device)
        self.factor = torch.linalg.cholesky(self.gram + strength * size[:, None, None] * eye)

    def _against(self, t: Tensor) -> Tensor:
        """Mean over rows of centred inputs times `t`, [groups, inputs, .]."""
        return mean_products(self.centred, t)

    def fit(self, t: Tensor) -> None:
        """Weight and shift for targets [groups, rows, outputs]."""
        moment = self._against(t)
        step = torch.cholesky_solve(moment - self.gram @ self.first.transpose(1, 2), self.factor)
        self.weight = self.first + step.transpose(1, 2)
        if self.free:
            self.shift = column_means(t) - torch.einsum("goi,gi->go", self.weight, self.mean)

    def predicted(self) -> Tensor:
        """[groups, rows, outputs]."""
        constant = self.shift + torch.einsum("goi,gi->go", self.weight, self.mean)
        return self.centred @ self.weight.transpose(1, 2).to(self.centred) + constant[:, None].to(self.centred)


def mean_products(a: Tensor, b: Tensor) -> Tensor:
    """[groups, rows, n] and [groups, rows, m] -> mean over rows [groups, n, m], single precision by chunks."""
    total = a.new_zeros(a.shape[0], a.shape[2], b.shape[2], dtype=torch.float64)
    for x, y in zip(a.split(CHUNK, 1), b.split(CHUNK, 1)):
        total += (x.transpose(1, 2) @ y).double()
    return total / a.shape[1]


def column_means(x: Tensor) -> Tensor:
    """[groups, rows, n] -> [groups, n]: a product with ones, which is many times faster than `mean` in double."""
    ones = x.new_ones(1, 1, 1).expand(x.shape[0], x.shape[1], 1)
    return mean_products(x, ones)[:, :, 0]


__all__ = ["LeastSquares", "column_means", "mean_products"]
