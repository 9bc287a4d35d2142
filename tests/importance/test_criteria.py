"""Claims over every registered criterion, called as plain functions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sartor.activations.moments import Moments
from sartor.activations.readers import Read
from sartor.activations.silencing import Gap
from sartor.errors import BadInput, UnknownName
from sartor.importance import CRITERIA, find_criterion
from sartor.importance.criteria.fpgm import fpgm

NAMES = list(CRITERIA)
EQUIVARIANT = [e.name for e in CRITERIA.entries() if e.traits["equivariant"]]


def inputs_of(name, units, rest, seed, order=None, scale=1.0):
    """Everything the criterion asks for, with the units in another order if one is given."""
    g = torch.Generator().manual_seed(seed)
    order = torch.arange(units) if order is None else order
    drawn = {
        "weight": torch.randn(units, rest, generator=g, dtype=torch.float64)[order] * scale,
        "grad": torch.randn(units, rest, generator=g, dtype=torch.float64)[order],
        "activation": torch.randn(units, 3, rest, generator=g, dtype=torch.float64)[order] * scale,
        "reader": torch.randn(units, 2, rest, generator=g, dtype=torch.float64)[order],
        "labels": torch.tensor([0, 1, 1]),
        "units": units,
        "generator": torch.Generator().manual_seed(seed),
    }
    drawn["mean_grad"], drawn["fisher"] = drawn["grad"], drawn["grad"].square()
    drawn["moments"] = Moments.of(torch.randn(units, 2, 5, generator=g, dtype=torch.float64)[order] * scale)
    drawn["contribution"] = torch.randn(units, 3, generator=g, dtype=torch.float64)[order] * scale
    costs = torch.rand(units, generator=g, dtype=torch.float64)[order] * scale
    drawn["gap"] = Gap(units, units // 2, lambda stays: float(costs[~stays].sum()), lambda: costs * 0.9)
    x = torch.randn(40, units * rest, generator=g, dtype=torch.float64) * scale
    columns = torch.arange(units * rest).reshape(units, rest)[order]
    drawn["reads"] = [Read(x.T @ x, torch.randn(3, units * rest, generator=g, dtype=torch.float64), columns)]
    return {n: drawn[n] for n in CRITERIA[name].value.needs}


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=20, deadline=None)
@given(
    units=st.integers(1, 9),
    rest=st.integers(1, 9),
    seed=st.integers(0, 2**20),
    scale=st.sampled_from([0.0, 1e-12, 1.0, 1e12]),
)
def test_finite_one_score_a_unit_never_negative(name, units, rest, seed, scale):
    s = CRITERIA[name].value.function(**inputs_of(name, units, rest, seed, scale=scale))
    assert s.shape == (units,)
    assert torch.isfinite(s).all()
    assert (s >= 0).all()


@pytest.mark.parametrize("name", EQUIVARIANT)
@settings(max_examples=20, deadline=None)
@given(units=st.integers(1, 9), rest=st.integers(1, 9), seed=st.integers(0, 2**20), data=st.data())
def test_renumbering_the_units_renumbers_the_scores(name, units, rest, seed, data):
    order = torch.tensor(data.draw(st.permutations(range(units))))
    function = CRITERIA[name].value.function
    plain = function(**inputs_of(name, units, rest, seed))
    assert torch.allclose(function(**inputs_of(name, units, rest, seed, order)), plain[order], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_same_inputs_same_scores_and_inputs_untouched(name):
    first, second = inputs_of(name, 5, 4, 1), inputs_of(name, 5, 4, 1)
    function = CRITERIA[name].value.function
    once = function(**first)
    assert torch.equal(once, function(**second))
    fresh = inputs_of(name, 5, 4, 1)
    for key in first.keys() - {"generator", "units", "gap", "reads", "moments"}:
        assert torch.equal(first[key], fresh[key])


@pytest.mark.parametrize("name", NAMES)
def test_names_its_source_and_says_what_it_does(name):
    entry = CRITERIA[name]
    assert "arXiv:" in entry.source or "doi:" in entry.source
    assert entry.summary.endswith(".")
    assert "Source:" in entry.value.function.__doc__


@settings(max_examples=20, deadline=None)
@given(units=st.integers(2, 8), rest=st.integers(1, 6), seed=st.integers(0, 2**20))
def test_fpgm_is_the_sum_of_pairwise_distances_and_ignores_a_common_shift(units, rest, seed):
    w = torch.randn(units, rest, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    slow = torch.stack([sum((a - b).norm() for b in w) for a in w])
    assert torch.allclose(fpgm(w), slow, atol=1e-7)
    assert torch.allclose(fpgm(w + 5.0), slow, atol=1e-7)


def test_parameters_say_what_is_needed():
    assert find_criterion(lambda w: w.amax(1)).needs == ("weight",)
    assert find_criterion(lambda weight, grad: weight).needs == ("weight", "grad")
    assert find_criterion(lambda w, *, grad, p=2: w).needs == ("weight", "grad")
    assert find_criterion(CRITERIA["fpgm"].value.function) is CRITERIA["fpgm"].value


@pytest.mark.parametrize(
    "function, says",
    [
        (lambda w, epochs: w, "epochs"),
        (lambda weight, activation: weight, "weight and activation"),
        (lambda: 0, "got none"),
        (lambda activation, gap: gap, "activation and gap"),
        (lambda weight, labels: weight, "labels: take the activations"),
        (lambda contribution, reader: reader, "activation and contribution|reader"),
    ],
)
def test_a_function_that_asks_for_what_nobody_has_is_refused(function, says):
    with pytest.raises(BadInput, match=says):
        find_criterion(function)


def test_unknown_names_name_the_nearest():
    with pytest.raises(UnknownName, match="Did you mean 'taylor'"):
        find_criterion("tailor")
