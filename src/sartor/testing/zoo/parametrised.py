"""Weights that are computed from other parameters: weight norm, spectral norm, weight standardisation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from sartor.testing.zoo.case import Head, case, images

Layer = Callable[[nn.Module], nn.Module]


def _three(norm: Layer) -> nn.Module:
    layers = (norm(nn.Conv2d(3, 8, 3)), nn.LeakyReLU(0.1), norm(nn.Conv2d(8, 6, 3)), nn.LeakyReLU(0.1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), norm(nn.Linear(6, 5)))


@case("weight-norm-hooks", images(), exact=False, source="Salimans and Kingma 2016, arXiv:1602.07868")
def weight_norm_hooks() -> nn.Module:
    """Weight norm as a hook, which leaves the computed weight on the module."""
    with torch.no_grad():  # with its gradient history, `copy.deepcopy` would refuse the network
        return _three(nn.utils.weight_norm)  # type: ignore[arg-type]


@case("spectral-norm", images(), source="Miyato et al. 2018, arXiv:1802.05957")
def spectral_norm() -> nn.Module:
    """Spectral norm as a parametrisation: in evaluation mode, the two vectors it keeps give the norm."""
    return _three(parametrizations.spectral_norm)


class _Standardised(nn.Conv2d):
    """A convolution whose weight has mean 0 and variance 1 for every output channel."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, padding=1)


@case("weight-standardisation", images(), exact=False, source="Qiao et al. 2019, arXiv:1903.10520")
class WeightStandardisation(nn.Module):
    """Two convolutions with standardised weights."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = _Standardised(3, 8, 3), _Standardised(8, 6, 3), Head(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.b(F.relu(self.a(x)))))
