"""Claims over every registered recipe."""

import pytest
import torch
from torch import nn

from sartor.allocate import ALLOCATORS, Cap
from sartor.cost import macs
from sartor.errors import BadInput, UnknownName
from sartor.importance import CRITERIA, score
from sartor.recipes import RECIPES, find_recipe
from sartor.structure import trace
from sartor.types import Calibration, Recipe, Scaling

NAMES = list(RECIPES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_names_itself_its_source_and_registered_parts(name):
    entry = RECIPES[name]
    assert entry.value.name == name and entry.value.source == entry.source and entry.source and entry.summary
    assert all(part in CRITERIA for part in entry.value.criterion.split("*")) and entry.value.allocation in ALLOCATORS


def test_every_criterion_and_allocator_has_a_recipe():
    recipes = [RECIPES[n].value for n in NAMES]
    assert {part for r in recipes for part in r.criterion.split("*")} == set(CRITERIA)
    assert {r.allocation for r in recipes} == set(ALLOCATORS)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_makes_a_plan_that_meets_macs_exactly(name):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU(),
        nn.Conv2d(12, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip
    graph = trace(net, torch.randn(1, 3, 8, 8))
    batches = [(torch.randn(8, 3, 8, 8), torch.randint(0, 4, (8,)))]
    r = find_recipe(name)
    s = score(
        graph,
        net,
        r.criterion,
        calibration=Calibration(batches),
        scaling=Scaling(reduce=r.reduce, normalise=r.normalise, per_cost=r.per_cost),
    )
    cap = Cap(lambda counts: macs(graph, counts), 0.5 * macs(graph), "macs")
    units = {n: g.units for n, g in graph.groups.items()}
    keep = ALLOCATORS[r.allocation].value(s, [cap], units, ties=graph.ties, floor=r.floor, round_to=r.round_to)
    cost = macs(graph, {g: len(k) for g, k in keep.items()})
    one_more = min(macs(graph, {**{g: len(k) for g, k in keep.items()}, n: len(keep[n]) + 1}) for n in keep)
    assert cost <= cap.at_most < one_more


def test_names_values_and_functions_all_say_a_recipe():
    mine = Recipe(name="mine", criterion="l2")
    assert find_recipe(mine) is mine
    assert find_recipe("fpgm", round_to=8) == Recipe(**{**vars(RECIPES["fpgm"].value), "round_to": 8})
    largest = lambda w: w.abs().amax(1)
    assert find_recipe(largest).criterion is largest


def test_wrong_names_fields_and_kinds_are_refused():
    with pytest.raises(UnknownName, match=r"no recipe is called 'tailor'. Did you mean 'taylor'"):
        find_recipe("tailor")
    with pytest.raises(BadInput, match="recipe field 'flor' does not exist"):
        find_recipe("l1", flor=0.2)
    with pytest.raises(BadInput, match=r"in \[0, 1\)"):
        find_recipe("l1", floor=2)
    with pytest.raises(BadInput, match="expected a name, a Recipe or a function"):
        find_recipe(3)
