"""Divergences of training from other samples beside the closed form of two Gaussians."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sartor import BadInput
from sartor.analysis import analyse
from sartor.analysis.probes.generalisation import gaussian_divergence, transport
from sartor.types import Data
from tests.analysis.known import batches


def standard(n: int, width: int, seed: int) -> Tensor:
    """Rows whose sample mean is 0 and whose sample covariance is the identity, exactly."""
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(0)
    return (x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x / n)).T).float()


def net() -> nn.Module:
    """Two linear maps without bias that lose one dimension each."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3, bias=False), nn.Linear(3, 2, bias=False))


def test_the_terms_of_a_linear_network_are_the_closed_form_and_fall_with_depth() -> None:
    """Classes are Gaussians of covariance 1, other samples are moved: KL is |projection of the shift|^2 / 2."""
    shift, centre = torch.tensor([0.6, -0.3, 0.5, 0.4]), torch.tensor([1.0, 1.0, -1.0, 0.0])
    y = torch.arange(600) % 2
    x = torch.empty(600, 4)
    other = torch.empty(600, 4)
    for k in (0, 1):
        x[y == k] = standard(300, 4, k) + (2 * k - 1) * centre
        other[y == k] = standard(300, 4, 5 + k) + (2 * k - 1) * centre + shift
    model = net()
    found = analyse(model, Data(train=batches(x, y), val=batches(other, y)), ["generalisation"])
    seen = {(r.layer, r.quantity): r.value for r in found.rows}
    first, second = model[0].weight.detach().double(), (model[1].weight @ model[0].weight).detach().double()
    expected = []
    for w in (first, second):
        moved = w @ shift.double()
        expected.append(float(moved @ torch.linalg.solve(w @ w.T, moved)) / 2)
    values = [seen[name, "KL"] for name in ("0", "1")]
    assert values == pytest.approx(expected, rel=0.02)
    assert values[1] <= values[0] <= float(shift.square().sum()) / 2
    assert seen["0", "bound"] == pytest.approx((expected[0] / 2) ** 0.5, rel=0.02)
    assert seen["", "funnel"] == min(seen["0", "transport"], seen["1", "transport"])


def test_one_distribution_has_the_divergence_of_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [gaussian_divergence(*torch.randn(2, 200, 3, generator=generator, dtype=torch.float64)) for _ in range(60)]
    assert sum(drawn) / 60 == pytest.approx(3 * 6 / 4 * (2 / 200), rel=0.25)


def test_the_transport_of_a_moved_cloud_is_how_far_it_moved() -> None:
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    step = torch.tensor([3.0, 0.0, 4.0])
    assert transport(x, x[torch.randperm(100)] + step) == pytest.approx(5.0, rel=1e-5)
    assert transport(x, x.flip(0)) == pytest.approx(0.0, abs=1e-6)


def test_without_training_samples_the_probe_says_what_to_pass() -> None:
    with pytest.raises(BadInput, match="a Data with train and val"):
        analyse(net(), batches(torch.randn(20, 4), torch.arange(20) % 2), ["generalisation"])
