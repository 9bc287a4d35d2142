"""Column subset selection: leverage against the singular value decomposition, distances against least squares."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.errors import BadInput
from sartor.importance.columns import distances_to_kept, distances_to_others, leverage, regrow_probabilities
from sartor.importance.criteria.chex_leverage import chex_leverage, leverage_for
from sartor.importance.criteria.chex_residual import chex_residual
from sartor.importance.criteria.l1 import l1

SEEDS = st.integers(0, 2**20)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_svd(w, k):
    """The definition: X = w.T, V its right singular vectors, squared norm of the first k entries of a row."""
    return torch.linalg.svd(w.T, full_matrices=False).Vh[:k].square().sum(0)


def to_span(w, j, others):
    """Squared distance of row j to the span of other rows, by least squares."""
    if not others:
        return w[j].square().sum()
    a = torch.linalg.lstsq(w[others].T, w[j][:, None], driver="gelsd").solution
    return (w[j] - (w[others].T @ a)[:, 0]).square().sum()


@settings(max_examples=40, deadline=None)
@given(units=st.integers(1, 9), rest=st.integers(1, 12), seed=SEEDS, scale=st.sampled_from([1e-9, 1.0, 1e9]))
def test_leverage_for_every_k_is_that_of_the_svd_and_sums_to_k(units, rest, seed, scale):
    w = drawn(units, rest, seed=seed) * scale
    rank = min(units, rest)
    scores = leverage(w)
    for k in range(1, units + 1):
        assert torch.allclose(scores[k - 1], by_svd(w, min(k, rank)), atol=1e-7)
    sums = torch.arange(1, units + 1, dtype=torch.float64).clamp_max(rank)
    assert torch.allclose(scores.sum(1), sums, atol=1e-9)
    assert scores.min() >= -1e-12 and scores.max() <= 1 + 1e-9
    assert (scores.diff(dim=0) >= -1e-12).all()


def test_orthonormal_filters_score_one_and_before_that_their_share():
    w = torch.linalg.qr(drawn(12, 5)).Q.T
    assert torch.allclose(leverage(w), torch.arange(1.0, 6.0, dtype=torch.float64)[:, None].expand(5, 5) / 5)


def test_duplicated_filters_share_and_dead_ones_score_zero():
    w = torch.cat([drawn(5, 20), torch.zeros(1, 20, dtype=torch.float64)])
    doubled = torch.cat([w, w[:1]])
    for scores in leverage(doubled):
        assert torch.isclose(scores[0], scores[-1]) and scores[5] < 1e-30
    assert torch.allclose(leverage(doubled)[-1][[0, 6]], torch.full((2,), 0.5, dtype=torch.float64))


def test_equal_singular_values_leave_no_choice_to_the_basis():
    turn = torch.linalg.qr(drawn(4, 4, seed=1)).Q
    w = torch.linalg.qr(drawn(9, 4)).Q.T  # any rotation of it spans the same with the same singular values
    assert torch.allclose(leverage(w)[1], leverage(turn @ w)[1])
    assert torch.allclose(leverage(w)[1], torch.full((4,), 0.5, dtype=torch.float64))


def test_the_criterion_takes_half_and_falls_back_to_l1_with_few_weights_a_unit():
    w = drawn(7, 12)
    assert torch.equal(chex_leverage(w), leverage(w)[3])
    assert torch.equal(chex_leverage(w), leverage_for(4)(w))
    assert torch.equal(leverage_for(0.01)(w), leverage(w)[0]) and torch.equal(leverage_for(7)(w), leverage(w)[6])
    assert torch.equal(leverage_for(0.99)(w), leverage(w)[6])
    few = drawn(7, 6)
    assert torch.equal(chex_leverage(few), l1(few))


@pytest.mark.parametrize("keep", [0, -1, 0.0, 1.0, 1.5, True, float("nan")])
def test_a_count_that_is_none_is_refused(keep):
    with pytest.raises(BadInput, match="expected a count >= 1 or a share"):
        leverage_for(keep)


def test_more_units_than_there_are_is_refused():
    with pytest.raises(BadInput, match="at most the 3 units of the group; got 4"):
        leverage_for(4)(drawn(3, 5))


@settings(max_examples=40, deadline=None)
@given(data=st.data(), units=st.integers(1, 8), rest=st.integers(1, 10), seed=SEEDS)
def test_distances_to_the_kept_are_those_of_least_squares(data, units, rest, seed):
    """With rest < kept the kept filters depend on each other."""
    w = drawn(units, rest, seed=seed)
    kept = sorted(data.draw(st.sets(st.integers(0, units - 1))))
    got = distances_to_kept(w @ w.T, kept)
    want = torch.stack([to_span(w, j, kept) for j in range(units)])
    assert torch.allclose(got, want, atol=1e-9)
    assert (got[kept] == 0).all() and (got >= 0).all()


def test_distances_survive_duplicates_and_zeros_among_the_kept():
    w = drawn(6, 10)
    w[1], w[2] = w[0], 0
    want = torch.stack([to_span(w, j, [0, 3]) for j in range(6)])
    assert torch.allclose(distances_to_kept(w @ w.T, [0, 1, 2, 3]), want, atol=1e-9)
    assert torch.allclose(distances_to_kept(w @ w.T, [2]), w.square().sum(1))


@pytest.mark.parametrize("kept", [[3], [-1]])
def test_units_that_do_not_exist_are_refused(kept):
    with pytest.raises(BadInput, match=r"indices in \[0, 3\)"):
        distances_to_kept(torch.eye(3), kept)
    with pytest.raises(BadInput, match=r"indices in \[0, 3\)"):
        regrow_probabilities(torch.ones(3), kept)


@settings(max_examples=30, deadline=None)
@given(units=st.integers(1, 8), rest=st.integers(1, 10), seed=SEEDS, ridge=st.sampled_from([1e-3, 0.01, 1.0]))
def test_distance_to_the_others_is_a_ridge_regression(units, rest, seed, ridge):
    w = drawn(units, rest, seed=seed)
    mu = ridge * w.square().sum() / units
    want = []
    for j in range(units):
        o = w[[i for i in range(units) if i != j]]
        a = torch.linalg.solve(o @ o.T + mu * torch.eye(units - 1, dtype=w.dtype), o @ w[j])
        want.append((w[j] - a @ o).square().sum() + mu * a.square().sum())
    got = distances_to_others(w @ w.T, ridge)
    assert torch.allclose(got, torch.stack(want), rtol=1e-9, atol=1e-9)
    assert (got <= w.square().sum(1) * (1 + 1e-9)).all()
    assert torch.allclose(chex_residual(w, ridge=ridge).square(), got)


def test_a_small_ridge_gives_the_plain_distance_to_the_others():
    w = drawn(6, 20)
    want = torch.stack([to_span(w, j, [i for i in range(6) if i != j]) for j in range(6)])
    assert torch.allclose(distances_to_others(w @ w.T, 1e-9), want, rtol=1e-6)


def test_residual_is_the_norm_where_filters_are_orthogonal_and_small_where_one_is_repeated():
    w = torch.diag(torch.tensor([3.0, 2.0, 0.0, 1.0], dtype=torch.float64))
    assert torch.allclose(chex_residual(w), torch.tensor([3.0, 2.0, 0.0, 1.0], dtype=torch.float64))
    scores = chex_residual(torch.cat([w[:2], 2 * w[1:2]]))  # the second and the third point the same way
    assert scores[0] == pytest.approx(3) and scores[1] < 0.2 * 2 and scores[2] < 0.2 * 4


def test_a_ridge_of_nothing_is_refused():
    for ridge in (0.0, -1.0, float("nan")):
        with pytest.raises(BadInput, match="ridge: expected a number > 0"):
            distances_to_others(torch.eye(2), ridge)


def test_regrowth_follows_the_exponential_of_the_distances_of_removed_units():
    d = torch.tensor([5.0, 1.0, 0.0, 800.0])
    p = regrow_probabilities(d[:3], [0])
    assert p[0] == 0 and p.sum() == pytest.approx(1) and p[1] / p[2] == pytest.approx(torch.e)
    assert torch.isfinite(regrow_probabilities(d, [0])).all()  # no overflow
    with pytest.raises(BadInput, match="all units kept"):
        regrow_probabilities(d, [0, 1, 2, 3])
