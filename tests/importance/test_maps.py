"""Criteria that read activations alone, each against its definition."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.activations.moments import Moments
from sartor.importance.criteria.apoz import apoz
from sartor.importance.criteria.hrank import hrank
from sartor.importance.criteria.wanda import wanda

SEEDS = st.integers(0, 2**20)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=20, deadline=None)
@given(units=st.integers(1, 6), samples=st.integers(2, 5), rest=st.integers(1, 6), seed=SEEDS)
def test_apoz_counts_what_relu_leaves(units, samples, rest, seed):
    a = drawn(units, samples, rest, seed=seed).relu()
    zeros = torch.tensor([sum(float(v == 0) for v in unit.flatten()) / (samples * rest) for unit in a])
    assert torch.allclose(apoz(a), 1 - zeros.double())
    halves = torch.stack([apoz(a[:, :1]), *[apoz(a[:, i : i + 1]) for i in range(1, samples)]])
    assert torch.allclose(halves.mean(0), apoz(a))


@settings(max_examples=20, deadline=None)
@given(units=st.integers(1, 6), samples=st.integers(1, 4), rest=st.integers(1, 6), out=st.integers(1, 6), seed=SEEDS)
def test_wanda_adds_the_scores_of_all_weights_that_read_a_unit(units, samples, rest, out, seed):
    a, r = drawn(units, rest, samples, seed=seed), drawn(units, rest, out, seed=seed + 1)
    want = [
        sum(abs(w) * a[j, k].norm() for k in range(rest) for w in r[j, k]) / samples**0.5 for j in range(units)
    ]  # a unit has `rest` columns
    assert torch.allclose(wanda(Moments.of(a), r), torch.stack(want))
    assert torch.allclose(wanda(Moments.of(2 * a), 0.5 * r), wanda(Moments.of(a), r))


def test_wanda_orders_as_the_paper_where_one_output_reads():
    x, w = drawn(40, 6), drawn(1, 6, seed=1)  # tokens by inputs; outputs by inputs
    paper = w.abs()[0] * x.norm(dim=0)
    assert torch.equal(wanda(Moments.of(x.T[:, None]), w.T[:, None]).argsort(), paper.argsort())


@pytest.mark.parametrize("h, w", [(1, 1), (4, 4), (3, 5), (8, 8), (2, 4)])
def test_hrank_is_the_mean_rank_of_maps_of_known_rank(h, w):
    full = min(h, w)
    ranks = torch.tensor([[0, 1, full], [full, full, full]])
    maps = torch.stack(
        [
            torch.stack([drawn(h, int(r), seed=i) @ drawn(int(r), w, seed=i + 9) for i, r in enumerate(row)])
            for row in ranks
        ]
    )
    assert torch.equal(hrank(maps.flatten(2)), ranks.double().mean(1))
    assert torch.equal(hrank(1e-6 * maps.flatten(2)), ranks.double().mean(1))
    assert torch.equal(hrank(maps.flatten(2)).float(), torch.linalg.matrix_rank(maps).float().mean(1))


def test_hrank_folds_what_is_no_square_to_the_nearest_rectangle():
    a = drawn(2, 3, 32)
    assert torch.equal(hrank(a), torch.linalg.matrix_rank(a.reshape(2, 3, 4, 8)).double().mean(1))
    assert hrank(drawn(1, 1, 7)) == 1  # prime: a vector


def test_hrank_counts_in_the_precision_of_the_numbers_given():
    nearly = torch.outer(torch.arange(1.0, 7.0), torch.arange(1.0, 7.0)) / 3  # rank one but for rounding
    assert hrank(nearly.reshape(1, 1, 36)) == 1
    assert hrank(nearly.bfloat16().reshape(1, 1, 36)) == 1


def test_hrank_of_more_maps_than_fit_at_once_is_that_of_each():
    maps = drawn(3, 3000, 4)
    maps[1, ::2] = 0
    assert torch.equal(hrank(maps), torch.tensor([2.0, 1.0, 2.0], dtype=torch.float64))


@pytest.mark.parametrize("criterion", [apoz, hrank])
def test_dead_units_score_zero(criterion):
    a = drawn(3, 4, 9).relu()
    a[1] = 0
    s = criterion(a)
    assert s[1] == 0 and (s[[0, 2]] > 0).all() and s.dtype == torch.float64
