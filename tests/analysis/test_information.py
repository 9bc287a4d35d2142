"""Entropies and mutual information beside values that are known exactly."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sartor.analysis.data_pass import Activations, pass_over
from sartor.analysis.probes.information import (
    binned,
    conditional,
    entropy,
    entropy_of,
    information,
    information_plane,
    label_information,
    mutual_information,
)
from tests.analysis.known import subject


def bits(n: int) -> torch.Tensor:
    """All numbers of n bits as rows of plus and minus one."""
    return torch.tensor([[2.0 * (i >> k & 1) - 1 for k in range(n)] for i in range(2**n)])


def test_the_information_plane_of_a_map_of_bits_is_exact() -> None:
    """Four bits, of which two are passed on; the label is one of these."""
    x = bits(4)
    layers = {"all": x, "two": x[:, :2], "one": x[:, :1], "none": 0 * x}
    labels = (x[:, 0] > 0).long()
    given = {name: Activations(values, values.shape[1], labels) for name, values in layers.items()}
    seen = {(r.layer, r.quantity): r.value for r in information_plane(given)}
    of_x = [seen[name, "I(X;T)"] for name in layers]
    of_y = [seen[name, "I(T;Y)"] for name in layers]
    assert of_x == pytest.approx([4, 2, 1, 0], abs=1e-9) and of_y == pytest.approx([1, 1, 1, 0], abs=1e-9)


def test_entropies_of_bins_stay_within_their_bounds() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (1, 2, 40):
        codes = binned(torch.tanh(torch.randn(200, width, generator=generator)), 30)
        labels = torch.randint(3, (200,), generator=generator)
        assert 0 <= conditional(codes, labels) <= entropy_of(codes) <= math.log2(200) + 1e-9


def test_information_is_lost_from_layer_to_layer() -> None:
    """Of layers that are functions of the one before in their bins, as the data-processing inequality says."""
    model = nn.Sequential(
        nn.Linear(4, 3, bias=False), nn.Hardtanh(), nn.Linear(3, 2, bias=False), nn.Hardtanh(), nn.Linear(2, 2)
    )
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(3, 4))
        model[2].weight.copy_(torch.eye(2, 3))
    x = bits(4)
    seen = pass_over(subject(model, [(x, (x[:, 0] > 0).long())]), {"activations"})
    values = [r.value for r in information_plane(seen["activations"]) if r.quantity == "I(X;T)"]
    assert values == pytest.approx([3.0, 2.0], abs=1e-9)


def correlated(nats: float, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two samples of two Gaussian numbers with so much mutual information."""
    generator = torch.Generator().manual_seed(seed)
    rho = math.sqrt(1 - math.exp(-nats))  # two independent pairs, each -log(1 - rho^2) / 2
    a, b = torch.randn(2, n, 2, generator=generator, dtype=torch.float64)
    return a, rho * a + math.sqrt(1 - rho**2) * b


@pytest.mark.parametrize("nats", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_mutual_information_of_lifted_gaussians(nats: float) -> None:
    x, t = correlated(nats, 4000, 0)
    generator = torch.Generator().manual_seed(1)
    lift = torch.randn(2, 2, 64, generator=generator, dtype=torch.float64)
    assert information(x @ lift[0], t @ lift[1], 2) == pytest.approx(nats, abs=0.15)


def test_the_entropy_of_a_gaussian_is_its_closed_form() -> None:
    x = 3 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert entropy(x) == pytest.approx(math.log(2 * math.pi * math.e * 9), abs=0.06)


def test_labels_that_are_far_apart_have_their_entropy_as_information() -> None:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(900) % 3
    apart = torch.randn(900, 2, generator=generator) + 100.0 * torch.nn.functional.one_hot(y, 3)[:, :2]
    assert label_information(apart, y, 2) == pytest.approx(math.log(3), abs=0.05)
    assert label_information(torch.randn(900, 2, generator=generator), y, 2) == pytest.approx(0.0, abs=0.1)


def test_a_layer_that_passes_less_on_has_less_information() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    x = torch.randn(600, 4)
    with torch.no_grad():
        model[2].weight.zero_()  # the second layer is constant
    given = subject(model, [(x, torch.arange(600) % 2)])
    seen = pass_over(given, {"activations"})
    values = {r.layer: r.value for r in mutual_information(seen["activations"], given) if r.quantity == "I(X;T)"}
    assert values["1"] > 1.0 and values["3"] == 0.0
