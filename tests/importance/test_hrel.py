"""Mutual information with labels: bounds, the block formula, what labels tell and what shuffled ones leave."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.importance import CRITERIA
from sartor.importance.criteria.hrel import aligned_width, mutual_information
from sartor.importance.spectral import entropy

hrel = CRITERIA["hrel"].value.function


def kernels(units, b, seed):
    """Gaussian kernels of random maps, [units, b, b]."""
    x = torch.randn(units, b, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.exp(-torch.cdist(x, x).square() / 2)


def labels_of(b, classes, seed):
    return torch.randint(0, classes, (b,), generator=torch.Generator().manual_seed(seed))


@settings(max_examples=25)
@given(b=st.integers(1, 24), classes=st.integers(1, 6), seed=st.integers(0, 2**20))
def test_the_block_formula_is_the_full_one_and_keeps_its_bounds(b, classes, seed):
    k, y = kernels(3, b, seed), labels_of(b, classes, seed)
    same = (y[:, None] == y).double()
    full = entropy(k) + entropy(same) - entropy(k * same)
    got = mutual_information(k, y)
    assert torch.allclose(got, full.clamp(min=0), atol=1e-10)
    assert (got >= 0).all() and (got <= entropy(same) + 1e-9).all()


def test_kernels_that_know_all_or_nothing():
    y = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    assert float(mutual_information(torch.eye(8)[None], y)) == pytest.approx(2.0)
    assert float(mutual_information((y[:, None] == y).double()[None], y)) == pytest.approx(2.0)
    assert float(mutual_information(torch.ones(1, 8, 8), y)) == pytest.approx(0.0, abs=1e-9)


def test_a_filter_that_shows_the_class_is_first_and_a_constant_one_knows_nothing():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (100,), generator=g)
    noise = torch.randn(6, 100, 5, generator=g)
    shows = (3.0 * y)[None, :, None] + torch.zeros(1, 100, 5)
    s = hrel(torch.cat([noise, shows, torch.full((1, 100, 5), 2.0)]), y)
    assert int(s.argmax()) == 6 and float(s[6]) > 2 * float(s[:6].max()) and abs(float(s[7])) < 1e-9


def test_shuffled_labels_leave_the_bias_of_the_batch():
    """A kernel that follows the classes tells much more than shuffled labels do, and all shufflings tell the same."""
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (100,), generator=g)
    x = torch.randn(2, 100, 3, generator=g, dtype=torch.float64)
    x[1] += 2 * y[:, None]
    k = torch.exp(-torch.cdist(x, x).square() / 4)
    told = mutual_information(k, y)
    chance = torch.stack([mutual_information(k, y[torch.randperm(100, generator=g)]) for _ in range(10)])
    assert ((chance - chance.mean(0)).abs() < 0.15 * chance.mean(0)).all()
    assert abs(float(told[0] / chance[:, 0].mean()) - 1) < 0.15
    assert float(told[1]) > 1.8 * float(chance[:, 1].max())


def test_more_than_a_hundred_samples_are_taken_apart_evenly():
    g = torch.Generator().manual_seed(1)
    maps, y = torch.randn(3, 150, 4, generator=g), torch.randint(0, 3, (150,), generator=g)
    halves = (hrel(maps[:, :75], y[:75]) + hrel(maps[:, 75:], y[75:])) / 2
    assert torch.allclose(hrel(maps, y), halves)


def test_one_width_serves_the_layer_taken_as_one_map(monkeypatch):
    g = torch.Generator().manual_seed(2)
    maps, y = torch.randn(5, 30, 4, generator=g, dtype=torch.float64), labels_of(30, 3, 2)
    maps[0] += y[:, None]
    layer = maps.movedim(1, 0).flatten(1)
    sigma = aligned_width(torch.cdist(layer, layer).square(), y)
    want = mutual_information(torch.exp(-torch.cdist(maps, maps).square() / sigma**2), y)
    assert torch.allclose(hrel(maps, y), want, rtol=1e-6)
    monkeypatch.setattr("sartor.importance.criteria.hrel.CHUNK", 1)  # one filter at a time
    assert torch.allclose(hrel(maps, y), want, rtol=1e-6)


def test_the_width_is_the_best_of_the_grid_by_the_whole_alignment():
    y = labels_of(20, 3, 4)
    x = torch.randn(20, 3, dtype=torch.float64) + 3 * y[:, None]
    d2 = torch.cdist(x, x).square()
    same = (y[:, None] == y).double()
    align = lambda sigma: float((torch.exp(-d2 / sigma**2) * same).sum() / torch.exp(-d2 / sigma**2).norm())
    grid = torch.linspace(0.3, 10 * float(d2.sqrt().mean()), 100)
    assert align(float(aligned_width(d2, y))) == pytest.approx(max(align(float(s)) for s in grid))
    assert float(aligned_width(torch.zeros(4, 4), y[:4])) > 0
