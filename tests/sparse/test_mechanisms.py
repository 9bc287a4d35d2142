"""What single mechanisms promise: the schedule of regrowth, half-spaces, shrinking; worked values."""

import pytest
import torch
from torch import nn

from sartor.errors import BadInput
from sartor.importance.columns import distances_to_kept, leverage
from sartor.sparse import mechanism_of
from sartor.sparse.projected_units import _strength
from sartor.sparse.regrow_units import _best, _grown, _leverage
from sartor.sparse.units import removed_last
from sartor.types import Axes, Gradual, HalfSpace, Projected, PruneAndRegrow, Recipe


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_schedules_end_where_they_say():
    for when, last in ((Gradual(end=0.6), 60), (PruneAndRegrow(until=0.72), 72), (Projected(end=0.5), 50)):
        points = when.steps(100)
        assert points[-1] == last and list(points) == sorted(set(points))
    with pytest.raises(BadInput, match="after start"):
        Gradual(start=0.5, end=0.5)


def test_a_combination_without_a_mechanism_is_refused_with_those_that_exist():
    with pytest.raises(BadInput, match=r"axes/gradual"):
        mechanism_of(Recipe(cut=Axes()))


def test_leverage_sums_to_the_count_is_one_for_orthonormal_filters_and_shared_by_duplicates():
    w = normal(6, 20)
    for k in (1, 3, 6):
        assert leverage(w)[k - 1].sum().item() == pytest.approx(k)
    q = torch.linalg.qr(normal(20, 6)).Q.T
    assert torch.allclose(_leverage(q, 6), torch.ones(6, dtype=torch.float64))
    twice = torch.cat([w, w[:1]])
    scores = _leverage(twice, 4)
    assert scores[0].item() == pytest.approx(scores[6].item())


def test_kept_filters_have_no_distance_and_are_never_grown():
    w = normal(8, 30)
    kept = [0, 2, 5]
    assert not distances_to_kept(w @ w.T, kept)[kept].any()
    for by in ("leverage", "random"):
        grown = _grown([w], kept, 3, by, torch.Generator().manual_seed(1))
        assert len(set(grown)) == 3 and not set(grown) & set(kept)
    assert _grown([w], kept, 0, "leverage", torch.Generator()) == []


def test_what_grows_is_drawn_with_p_proportional_to_exp_of_the_distance():
    w = torch.diag(torch.tensor([1.0, 0.0, 1.0, 2.0], dtype=torch.float64))  # distances to filter 0: 0, 0, 1, 2
    draws = [_grown([w], [0], 1, "leverage", torch.Generator().manual_seed(s))[0] for s in range(3000)]
    share = torch.bincount(torch.tensor(draws), minlength=4).double() / len(draws)
    expected = torch.tensor([0.0, 1.0, 2.718281828, 7.389056099], dtype=torch.float64)
    assert torch.allclose(share, expected / expected.sum(), atol=0.03)


def test_removed_units_are_taken_only_where_live_ones_do_not_suffice():
    w = normal(6, 30)
    assert sorted(_best([w], [1, 3, 4], 3, "leverage", [])) == [1, 3, 4]
    more = _best([w], [1, 3, 4], 4, "leverage", [])
    assert set(more) > {1, 3, 4} and len(more) == 4
    assert _best([w], [1, 3], 2, "score", [5, 0, 1]) == [5, 0]


def test_removed_units_score_below_every_live_one():
    scores = removed_last(
        {"a": torch.tensor([2.0, 50.0]), "b": torch.tensor([3.0])},
        {"a": torch.tensor([True, False]), "b": torch.tensor([True])},
    )
    assert scores["a"][1] < min(scores["a"][0], scores["b"][0])


def test_the_strength_of_a_half_space_in_its_three_cases():
    options, one = HalfSpace(strength=0.1, amplify=2.0), torch.ones(1, dtype=torch.float64)
    assert _strength(options, one, 0.5 * one, one).item() == 0.1  # the gradient shrinks the unit already
    assert _strength(options, one, -0.2 * one, one).item() == pytest.approx(0.4)
    assert _strength(options, one, -0.9 * one, 0.82 * one).item() == pytest.approx(
        (0.9 + 0.82 / 0.9) / 2
    )  # 1 would exceed upper = 0.911: the middle of lower and upper
    assert _strength(options, one, -0.9 * one, 100 * one).item() == pytest.approx(1.0)  # at most 10 times


def test_units_projected_onto_zero_leave_without_a_change():
    """A recipe for the whole path: what is redundant is zero before it is removed, so outputs do not jump."""
    import sartor

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    from sartor.types import Criterion, Shrink

    recipe = Recipe("mine", score=Criterion("l2"), when=Projected(Shrink(), start=0.2, end=0.9), heal=())
    session = sartor.Session(net, optimizer, torch.randn(1, 6), budget="macs<=50%", recipe=recipe, steps=20)
    x, y = torch.randn(32, 6), torch.randint(3, (32,))
    norms = []
    for step in range(1, 19):
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
        before = net(x).detach()
        session.step()
        optimizer.zero_grad()
        if step == 18:
            assert torch.allclose(net(x), before, atol=1e-6) and session.plan is not None
        chosen = session._session.mechanism.chosen
        if chosen is not None:
            (kept,) = chosen.keep.values()
            gone = [i for i in range(16) if i not in kept]
            norms.append(net[0].weight[gone].norm().item())
    assert norms[-1] == 0 and norms[-2] > 0 and norms[len(norms) // 2] < norms[0]
