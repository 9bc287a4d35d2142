"""Criteria that read gradients, each against its definition written with loops."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.importance import find_criterion
from sartor.importance.criteria.fisher import fisher
from sartor.importance.criteria.group_fisher import group_fisher
from sartor.importance.criteria.hesso import hesso
from sartor.importance.criteria.movement import movement
from sartor.importance.criteria.oto import oto
from sartor.importance.criteria.taylor2 import taylor2

SHAPES = dict(units=st.integers(1, 7), rest=st.integers(1, 7), seed=st.integers(0, 2**20))
WITH_GRADIENTS = [fisher, hesso, movement, oto, taylor2]


def derivatives(criterion, grad):
    """What a criterion reads beside weights, of one sample with this gradient."""
    given = {"grad": grad, "mean_grad": grad, "fisher": grad.square()}
    return [given[n] for n in find_criterion(criterion).needs if n in given]


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unit(scores):
    scores = torch.stack(scores)
    return scores / scores.square().sum().sqrt() if scores.any() else scores


@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_oto_is_the_mixture_of_normalised_cosine_and_inverse_magnitude(units, rest, seed):
    x, g = drawn(units, rest, seed=seed), drawn(units, rest, seed=seed + 1)
    cosine = unit([a @ b / (a.norm() * b.norm()) for a, b in zip(x, g)])
    inverse = unit([1 / a.abs().mean() for a in x])
    assert torch.allclose(oto(x, g), 1 - 0.5 * cosine - 0.5 * inverse)
    assert oto(x, g).max() <= 1.5


def test_oto_lets_go_of_what_a_step_against_the_gradient_shortens():
    x = torch.ones(2, 3, dtype=torch.float64)
    g = torch.stack([x[0], -x[1]])
    shorter = (x - 0.1 * g).norm(dim=1) < x.norm(dim=1)
    assert shorter.tolist() == [True, False]
    assert oto(x, g)[0] < oto(x, g)[1]
    assert (
        oto(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1))[0]
        < oto(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1))[1]
    )


def test_a_dead_unit_scores_lowest_in_oto_and_does_not_change_the_others():
    x, g = drawn(4, 3), drawn(4, 3, seed=1)
    with_dead = oto(torch.cat([x, x[:1] * 0]), torch.cat([g, g[:1]]))
    assert with_dead[-1] == 0 and torch.allclose(with_dead[:-1], oto(x, g))


@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_hesso_is_a_fifth_of_each_of_five_normalised_scores(units, rest, seed):
    x, g = drawn(units, rest, seed=seed), drawn(units, rest, seed=seed + 1)
    five = [
        [a.norm() for a in x],
        [a.norm() / rest for a in x],
        [a @ b / (a.norm() * b.norm()) + 1 for a, b in zip(x, g)],
        [(a @ b).abs() for a, b in zip(x, g)],
        [0.5 * (a @ b) ** 2 for a, b in zip(x, g)],
    ]
    assert torch.allclose(hesso(x, g), sum(0.2 * unit(s) for s in five))


def test_hesso_counts_a_positive_cosine_for_a_unit():
    x = torch.ones(2, 3)
    assert hesso(x, torch.stack([x[0], -x[1]])).diff() < 0


@settings(max_examples=20, deadline=None)
@given(**SHAPES)
def test_fisher_is_half_the_curvature_along_each_weight(units, rest, seed):
    w, diagonal = drawn(units, rest, seed=seed), drawn(units, rest, seed=seed + 1).square()
    assert torch.allclose(fisher(w, diagonal), 0.5 * (diagonal * w.square()).sum(1))
    assert torch.equal(fisher(w, diagonal), fisher(-w, diagonal))


def test_fisher_predicts_the_rise_of_a_quadratic_loss_at_its_minimum():
    """loss = mean over samples of 0.5 (x_n . (w - w0))^2 / s^2 with noise: its Fisher diagonal is its curvature."""
    x = drawn(20000, 3)
    noise = drawn(20000, seed=1)
    w0 = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    grads = -noise[:, None] * x  # of 0.5 (x.w - x.w0 - noise)^2 at w0
    got = fisher(w0[:, None], grads.square().mean(0)[:, None])
    rise = torch.stack([0.5 * (x[:, j] * w0[j]).square().mean() for j in range(3)])
    assert torch.allclose(got, rise, rtol=0.15)


def test_group_fisher_is_half_the_mean_square_and_does_not_cancel_between_samples():
    c = drawn(3, 50)
    assert torch.allclose(group_fisher(c), torch.stack([0.5 * sum(v * v for v in row) / 50 for row in c]))
    assert group_fisher(torch.tensor([[1.0, -1.0]])) == 0.5  # the first-order term is zero here
    assert torch.allclose((group_fisher(c[:, :20]) * 20 + group_fisher(c[:, 20:]) * 30) / 50, group_fisher(c))


@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_taylor2_adds_the_absolute_changes_of_single_weights(units, rest, seed):
    w, g = drawn(units, rest, seed=seed), drawn(units, rest, seed=seed + 1)
    h = drawn(units, rest, seed=seed + 2).square()
    want = [sum(abs(-gi * wi + 0.5 * hi * wi**2) for wi, gi, hi in zip(a, b, c)) for a, b, c in zip(w, g, h)]
    assert torch.allclose(taylor2(w, g, h), torch.stack(want))


def test_taylor2_knows_the_sign_of_the_gradient():
    """Losing a weight along descent costs less than the first order says; against it, more."""
    w = torch.ones(1, 1)
    assert taylor2(w, w, w) == 0.5 and taylor2(w, -w, w) == 1.5


@settings(max_examples=30, deadline=None)
@given(**SHAPES)
def test_movement_orders_units_by_the_first_order_rise_of_the_loss(units, rest, seed):
    w, g = drawn(units, rest, seed=seed), drawn(units, rest, seed=seed + 1)
    rise = torch.stack([-(a @ b) for a, b in zip(w, g)])
    assert torch.allclose(movement(w, g), rise - rise.min())


def test_movement_accumulates_over_batches_to_the_movement_of_the_mean_gradient():
    w, grads = drawn(5, 4), drawn(6, 5, 4, seed=1)
    mean = torch.stack([movement(w, g) for g in grads]).mean(0)
    assert torch.allclose(mean - mean.min(), movement(w, grads.mean(0)))


@pytest.mark.parametrize("criterion", WITH_GRADIENTS)
def test_finite_without_weights_without_gradients_and_with_one_of_each(criterion):
    w, g = drawn(4, 3), drawn(4, 3, seed=1)
    for weight, grad in [(w * 0, g), (w, g * 0), (w * 0, g * 0), (w[:1], g[:1]), (w[:, :1], g[:, :1]), (w * 1e-9, g)]:
        s = criterion(weight.float(), *derivatives(criterion, grad.float()))
        assert s.dtype == torch.float64 and s.shape == (len(weight),) and torch.isfinite(s).all() and (s >= 0).all()


@pytest.mark.parametrize("criterion", [fisher, taylor2])
def test_a_unit_the_loss_does_not_depend_on_scores_zero(criterion):
    w, g = drawn(4, 3), drawn(4, 3, seed=1)
    g[2] = 0
    scores = criterion(w, *derivatives(criterion, g))
    assert scores[2] == 0 and (scores[[0, 1, 3]] > 0).all()
