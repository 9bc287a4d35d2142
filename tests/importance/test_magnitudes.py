"""Criteria that read weights alone, each against its definition."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from sartor.importance.criteria.lamp import lamp
from sartor.importance.criteria.median import geometric_median, median

SEEDS = st.integers(0, 2**20)


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=30, deadline=None)
@given(units=st.integers(1, 9), rest=st.integers(1, 6), seed=SEEDS)
def test_lamp_divides_by_all_that_are_not_smaller(units, rest, seed):
    w = drawn(units, rest, seed=seed)
    w[-1] = w[0]  # with a tie
    s = w.square().sum(1)
    want = torch.stack([a / sum(b for b in s if b >= a) for a in s])
    assert torch.allclose(lamp(w), want)
    assert lamp(w)[0] == lamp(w)[-1]
    assert torch.equal(lamp(w).argsort(stable=True), s.argsort(stable=True))


def test_lamp_worked_value_and_limits():
    w = torch.tensor([[1.0], [2.0], [3.0]])
    assert torch.allclose(lamp(w), torch.tensor([1 / 14, 4 / 13, 1.0], dtype=torch.float64))
    assert torch.allclose(lamp(w * 1e-20), lamp(w))  # the scale of a layer does not matter
    assert lamp(torch.zeros(3, 2)).tolist() == [0, 0, 0]
    assert lamp(torch.tensor([[0.0], [5.0]])).tolist() == [0, 1]


@settings(max_examples=10, deadline=None)
@given(units=st.integers(1, 8), rest=st.integers(2, 5), seed=SEEDS, scale=st.sampled_from([1e-6, 1.0, 1e6]))
def test_no_other_point_has_a_smaller_sum_of_distances(units, rest, seed, scale):
    w = drawn(units, rest, seed=seed) * scale

    def total(point):
        return float((w - torch.as_tensor(point) * scale).norm(dim=1).sum()) / scale

    ours = geometric_median(w) / scale
    found = minimize(total, ours.numpy() + 0.1, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10})
    assert total(ours) <= found.fun + 1e-9
    assert torch.allclose(median(w), (w - ours * scale).norm(dim=1))


def test_a_filter_that_is_the_median_scores_exactly_zero():
    w = torch.cat([drawn(1, 6) * 0, drawn(4, 6), -3 * drawn(4, 6)])  # opposite directions, one in the middle
    assert median(w)[0] == 0 and (median(w)[1:] > 0).all()


def test_an_outlier_does_not_drag_the_median():
    w = torch.tensor([[0.0], [1.0], [2.0], [1e6], [3.0]])
    assert torch.allclose(median(w), torch.tensor([2.0, 1.0, 0.0, 1e6 - 2, 1.0], dtype=torch.float64))


def test_an_even_number_on_a_line_gives_one_of_the_medians():
    m = geometric_median(torch.tensor([[0.0], [1.0], [2.0], [100.0]], dtype=torch.float64))
    assert 1 - 1e-2 <= m.item() <= 2 + 1e-2


def test_median_ignores_a_common_shift_and_survives_equal_filters():
    w = drawn(7, 4)
    assert torch.allclose(median(w + 3), median(w), atol=1e-9)
    assert median(torch.ones(3, 4)).tolist() == [0, 0, 0]
    assert median(torch.zeros(1, 1)).tolist() == [0]
    assert median(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 5.0]]))[:2].tolist() == [0, 0]  # the majority
