"""Masks on weights, growth, penalties, and counts by layer."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.zoo_graphs import understood
from torch import nn

import sartor
from sartor.allocate.weight_counts import Room, erdos_renyi_counts, even_counts, rounded, threshold_counts
from sartor.errors import BadInput, BudgetNotMet
from sartor.sparse.growth import LastActivations, grown_values, hebbian_growth, random_growth
from sartor.sparse.penalties import (
    group_lasso_gradient,
    growing_strengths,
    log_det_penalty,
    reweighted,
    scale_l1_gradients,
    weighted_square_gradient,
)
from sartor.sparse.weight_layers import participants, weight_layers
from sartor.sparse.weight_masks import WeightMasks
from sartor.testing.zoo import ZOO
from sartor.types.weights import Weights

rooms = st.lists(
    st.builds(lambda least, more, step: Room(least, least + more * step, step),
              st.integers(0, 4), st.integers(0, 30), st.integers(1, 5)),
    min_size=1, max_size=5,
)  # fmt: skip


@given(rooms, st.floats(0, 1), st.data())
@settings(max_examples=60, deadline=None)
def test_counts_are_possible_meet_the_total_and_leave_no_step_that_fits(given_rooms, share, data):
    table = {str(i): r for i, r in enumerate(given_rooms)}
    least, most = sum(r.least for r in given_rooms), sum(r.most for r in given_rooms)
    total = round(least + share * (most - least))
    sizes = {n: data.draw(st.integers(1, 100)) for n in table}
    scores = {n: torch.rand(r.most + 3) for n, r in table.items()}
    shapes = {n: (k, k + 1) for n, k in sizes.items()}
    for counts in (
        even_counts(sizes, table, total), threshold_counts(scores, table, total),
        erdos_renyi_counts(shapes, table, total), rounded({n: 0.0 for n in table}, table, total),
    ):  # fmt: skip
        assert sum(counts.values()) <= total
        for n, k in counts.items():
            assert table[n].least <= k <= table[n].most and (k - table[n].least) % table[n].step == 0
            assert k + table[n].step > table[n].most or sum(counts.values()) + table[n].step > total


def test_a_total_below_every_least_is_refused():
    with pytest.raises(BudgetNotMet, match="at least 7"):
        even_counts({"a": 10, "b": 10}, {"a": Room(3, 10), "b": Room(4, 10)}, 6)


def test_a_threshold_takes_the_largest_scores_of_all():
    scores = {"a": torch.tensor([9.0, 8.0, 1.0]), "b": torch.tensor([[7.0, 0.5], [0.4, 0.3]])}
    assert threshold_counts(scores, {"a": Room(1, 3), "b": Room(1, 4)}, 3) == {"a": 2, "b": 1}
    assert threshold_counts(scores, {"a": Room(1, 3), "b": Room(3, 4)}, 4) == {"a": 1, "b": 3}


def test_densities_of_erdos_and_renyi_are_in_proportion_to_sums_over_products():
    shapes = {"a": (16, 3, 3, 3), "b": (32, 16, 3, 3), "c": (64, 32, 3, 3)}
    size = {n: math.prod(s) for n, s in shapes.items()}
    for kernel in (True, False):
        counts = erdos_renyi_counts(shapes, {n: Room(1, k) for n, k in size.items()}, 2000, kernel=kernel)
        density = {n: counts[n] / size[n] for n in shapes}
        wished = {n: sum(s if kernel else s[:2]) / math.prod(s if kernel else s[:2]) for n, s in shapes.items()}
        assert density["b"] / density["c"] == pytest.approx(wished["b"] / wished["c"], rel=0.02)
        assert sum(counts.values()) == 2000


# layers


def test_layers_come_in_the_order_of_the_forward_with_their_costs():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.last, self.up = nn.Linear(6, 3), nn.ConvTranspose2d(4, 6, 2, groups=2)
            self.first, self.depth = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 4, 3, groups=4)

        def forward(self, x):
            return self.last(self.up(self.depth(self.first(x))).mean((2, 3)))

    model, x = Net(), torch.randn(1, 2, 8, 8)
    layers = weight_layers(sartor.trace(model, x))
    assert [n.name for n in layers] == ["first.weight", "depth.weight", "up.weight", "last.weight"]
    assert sum(n.macs for n in layers) == sartor.count(sartor.trace(model, x)).macs
    shapes = [tuple(n.view(torch.empty(n.shape)).shape) for n in layers]
    assert shapes == [(4, 2, 3, 3), (4, 1, 3, 3), (3, 4, 2, 2), (3, 6)]
    for n in layers:
        t = torch.randn(n.shape)
        assert torch.equal(n.unview(n.view(t)), t)
    assert [n.name for n in participants(layers, Weights(first=False, last=False))] == ["depth.weight", "up.weight"]
    assert [n.name for n in participants(layers, Weights(only=("up", "last"), exclude=("last.weight",)))] == [
        "up.weight"
    ]
    with pytest.raises(BadInput, match="none takes part"):
        participants(layers[:1], Weights(first=False))


@pytest.mark.parametrize("name", list(ZOO))
def test_layers_of_the_zoo_are_matrices_whose_costs_are_part_of_the_whole(name):
    model, _, graph = understood(name)
    layers = weight_layers(graph)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    assert sum(x.macs for x in layers) <= sartor.count(graph).macs + len(layers)
    assert all(tuple(parameters[x.name].shape) == x.shape and len(x.shape) > 1 for x in layers)


# masks


def masked(**values):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 3))
    layers = weight_layers(sartor.trace(nn.Sequential(net, nn.ReLU(), nn.Linear(3, 2)), torch.randn(1, 4)))[:1]
    whole = nn.Sequential(net, nn.ReLU(), nn.Linear(3, 2))
    return whole, WeightMasks(whole, layers, torch.optim.SGD(whole.parameters(), 0.1))


@pytest.mark.parametrize("values", ["zero", "recent", "rewind", "reinitialise"])
def test_values_of_what_comes_back(values):
    model, masks = masked()
    (name,) = masks.masks
    weight = dict(model.named_parameters())[name]
    masks.remember_first()
    first = weight.detach().clone()
    with torch.no_grad():
        weight.add_(1.0)
    died = weight.detach().clone()
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[0] = False
    masks.adopt({name: mask}, values, remember=True)
    assert not bool(weight[0].any()) and torch.equal(weight[1:], died[1:])
    masks.adopt({name: torch.ones(3, 4, dtype=torch.bool)}, values, torch.Generator().manual_seed(0))
    expected = {"zero": torch.zeros(4), "recent": died[0], "rewind": first[0]}.get(values)
    if expected is None:
        assert bool(weight[0].all()) and not torch.equal(weight[0], died[0])
    else:
        assert torch.equal(weight[0], expected)
    assert torch.equal(weight[1:], died[1:])


def test_a_gradient_that_is_not_finite_does_not_reach_a_dead_weight():
    model, masks = masked()
    (name,) = masks.masks
    weight = dict(model.named_parameters())[name]
    mask = torch.eye(3, 4, dtype=torch.bool)
    masks.adopt({name: mask})
    weight.grad = torch.full_like(weight, torch.nan)
    masks.mask_gradients_()
    assert bool(weight.grad[~mask].eq(0).all()) and bool(weight.grad[mask].isnan().all())


def test_wrong_masks_and_states_are_refused():
    _, masks = masked()
    (name,) = masks.masks
    for wrong in (torch.ones(3, 4), torch.ones(4, 3, dtype=torch.bool), "x"):
        with pytest.raises(BadInput, match="expected a bool tensor"):
            masks.adopt({name: wrong})
    with pytest.raises(BadInput, match="none of the"):
        masks.adopt({"elsewhere": torch.ones(3, 4, dtype=torch.bool)})
    with pytest.raises(BadInput, match="memory"):
        masks.load_state_dict({**masks.state_dict(), "memory": {name: torch.ones(2)}})
    with pytest.raises(BadInput, match="generator"):
        grown_values("reinitialise", torch.ones(2), torch.ones(2) > 0, None, None)
    with pytest.raises(BadInput, match="stored"):
        grown_values("rewind", torch.ones(2), torch.ones(2) > 0, None, None)


# growth


def test_hebbian_scores_are_cosines_of_pairs():
    pre, post = torch.randn(7, 3), torch.randn(7, 4)
    post[:, 1] = 0
    loop = torch.zeros(4, 3)
    for i in range(4):
        for j in range(3):
            loop[i, j] = nn.functional.cosine_similarity(post[:, i], pre[:, j], dim=0)
    torch.testing.assert_close(hebbian_growth(pre, post), loop)


def test_the_last_activations_are_those_of_the_last_training_forward():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    kept = LastActivations(net, {"0.weight": (4, 3)})
    with pytest.raises(BadInput, match="has not run"):
        kept["0.weight"]
    x = torch.randn(2, 5, 3)
    net.train()(x)
    net.eval()(torch.randn(6, 3))
    before, after = kept["0.weight"]
    assert torch.equal(before, x.flatten(0, 1)) and torch.equal(after, net[0](x).flatten(0, 1))
    kept.close()


def test_random_growth_is_that_of_its_seed():
    draw = lambda seed: random_growth((3, 4), torch.Generator().manual_seed(seed))
    assert torch.equal(draw(0), draw(0)) and not torch.equal(draw(0), draw(1))


# penalties


def test_the_penalty_has_the_fixed_point_of_a_quadratic():
    """(w - c)^2 / 2 + s w^2 / (w^2 + e), factors refreshed at every step: w (1 + 2 s / (w^2 + e)) = c."""
    c, s, e = torch.tensor([2.0, 0.2]), 0.05, 0.01
    w = c.clone()
    for _ in range(2000):
        w = w - 0.05 * (w - c + s * weighted_square_gradient(w, reweighted(w.square(), e)))
    torch.testing.assert_close(w * (1 + 2 * s / (w.square() + e)), c)
    assert w[0] > 1.9 and w[1] < 0.05  # the small one is driven to zero, the large one stays


def test_gradients_of_penalties_are_those_of_autograd():
    w = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    strengths = growing_strengths(torch.rand(5, dtype=torch.float64))
    (strengths * w.norm(dim=1)).sum().backward()
    torch.testing.assert_close(group_lasso_gradient(w.detach(), strengths), w.grad)
    assert strengths.min() == 1 and strengths.max() == 16

    w.grad = None
    (torch.logdet(w.T @ w / 5) ** 2).backward()
    value, gradient = log_det_penalty(w)
    torch.testing.assert_close(gradient, w.grad)
    assert float(value) == pytest.approx(float(torch.logdet(w.detach().T @ w.detach() / 5) ** 2))


def test_descent_on_the_log_det_penalty_lowers_the_condition_number():
    torch.manual_seed(0)
    w = torch.randn(200, 100) * torch.logspace(-2, 0, 100)
    before = torch.linalg.cond(w)
    for _ in range(50):
        value, gradient = log_det_penalty(w)
        w = w - 1e-2 * gradient / gradient.norm() * w.norm()
    assert torch.linalg.cond(w) < before and bool(torch.isfinite(value))
    with pytest.raises(BadInput, match="singular"):
        log_det_penalty(torch.ones(3, 2))


def test_scales_of_costly_channels_are_pulled_harder():
    scales = {"a": torch.tensor([1.0, -1.0]), "b": torch.tensor([1.0, 0.0])}
    found = scale_l1_gradients(scales, {"a": 300.0, "b": 100.0})
    assert found["a"].tolist() == [1.5, -1.5] and found["b"].tolist() == [0.5, 0.0]
    with pytest.raises(BadInput, match="'b'"):
        scale_l1_gradients(scales, {"a": 1.0})
