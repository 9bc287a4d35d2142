"""Mean and variance of what the columns of a place carry, over all samples of a calibration set."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Of every column that carries a unit, over `n` values: its samples and positions. float64.

    A unit has several columns where several inputs of one operator carry it: the dimensions of a head, the positions of
    a channel that is flattened before a linear layer.
    """

    n: int
    mean: Tensor  # [units, columns]
    variance: Tensor  # [units, columns], divided by n

    @property
    def mean_square(self) -> Tensor:
        """[units, columns]."""
        return self.variance + self.mean.square()

    @staticmethod
    def of(values: Tensor) -> Moments:
        """The moments of [units, columns, n]; n > 0.

        >>> import torch
        >>> Moments.of(torch.tensor([[[1.0, 3.0], [5.0, 5.0]]])).variance
        tensor([[1., 0.]], dtype=torch.float64)
        """
        x = values.double()
        mean = x.mean(2)
        return Moments(x.shape[2], mean, (x - mean[:, :, None]).square().mean(2))

    def __add__(self, other: Moments) -> Moments:
        """The moments of both sets of values, to full precision: squares are taken around each set's own mean.

        Source: Chan, Golub and LeVeque 1983, doi:10.1080/00031305.1983.10483115.
        """
        n = self.n + other.n
        share = other.n / n
        apart = other.mean - self.mean
        variance = self.variance + share * (other.variance - self.variance) + share * (1 - share) * apart.square()
        return Moments(n, self.mean + share * apart, variance)
