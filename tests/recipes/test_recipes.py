"""Claims over every registered recipe."""

import json
import tomllib
from dataclasses import replace

import pytest
import torch
from torch import nn

from sartor.allocate import ALLOCATORS, Cap
from sartor.allocate.bundles import step_of
from sartor.cost import macs
from sartor.errors import BadInput, UnknownName
from sartor.importance import CRITERIA, score
from sartor.recipes import RECIPES, changed, find_recipe
from sartor.structure import trace
from sartor.types import (
    Axes,
    Calibration,
    Criterion,
    ErdosRenyi,
    FineTune,
    FoldMeans,
    Gates,
    Recipe,
    RefreshNorms,
    Ridge,
    Scaling,
    Search,
    Uniform,
    Weights,
    to_plain,
)

NAMES = list(RECIPES)
OF_UNITS = [e.name for e in RECIPES.entries() if e.value.cut.kind == "axes"]  # the others allocate weights


def criteria_of(recipe):
    return () if isinstance(recipe.score, Gates) else recipe.score.criterion.split("*")


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_names_itself_its_source_and_registered_parts(name):
    entry = RECIPES[name]
    assert entry.value.name == name and entry.value.source == entry.source and entry.source and entry.summary
    assert all(part in CRITERIA for part in criteria_of(entry.value)) and (
        entry.value.allocation.kind in {*ALLOCATORS, "erdos-renyi"}
    )


def test_every_criterion_and_allocator_has_a_recipe():
    recipes = [RECIPES[n].value for n in NAMES]
    assert {part for r in recipes for part in criteria_of(r)} == set(CRITERIA)
    assert {r.allocation.kind for r in recipes} == {*ALLOCATORS, "erdos-renyi"}


@pytest.mark.parametrize("name", OF_UNITS)
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
    how = Criterion("l2") if isinstance(r.score, Gates) else r.score
    scaling = Scaling(reduce=how.reduce, normalise=how.normalise, per_cost=how.per_cost)
    s = score(graph, net, how.criterion, calibration=Calibration(batches), scaling=scaling)
    cap = Cap(lambda counts: macs(graph, counts), 0.5 * macs(graph), "macs")
    units = {n: g.units for n, g in graph.groups.items()}
    a = r.allocation
    keep = ALLOCATORS[a.kind].value(s, [cap], units, ties=graph.ties, floor=a.floor, round_to=a.round_to)
    cost = macs(graph, {g: len(k) for g, k in keep.items()})
    counts = {g: len(k) for g, k in keep.items()}
    step = {n: step_of(a.round_to, units[n]) for n in keep}
    one_more = min(macs(graph, {**counts, n: min(units[n], counts[n] + step[n])}) for n in keep)
    assert cost <= cap.at_most < one_more


def test_names_values_and_functions_all_say_a_recipe():
    mine = Recipe(name="mine", score=Criterion("l2"))
    assert find_recipe(mine) is mine
    fpgm = RECIPES["fpgm"].value
    assert changed(fpgm, {"allocate.round_to": 8}) == replace(fpgm, allocate=replace(fpgm.allocate, round_to=8))
    assert find_recipe("fpgm", calibration=8) == replace(fpgm, calibration=8)
    largest = lambda w: w.abs().amax(1)
    assert find_recipe(largest).score.criterion is largest


def test_wrong_names_fields_and_kinds_are_refused():
    with pytest.raises(UnknownName, match=r"no recipe is called 'tailor'. Did you mean 'taylor'"):
        find_recipe("tailor")
    with pytest.raises(UnknownName, match="recipe field is called 'flor'"):
        find_recipe("l1", flor=0.2)
    with pytest.raises(UnknownName, match=r"'allocate.flor'. Did you mean 'allocate.floor'"):
        changed(find_recipe("l1"), {"allocate.flor": 0.2})
    with pytest.raises(BadInput, match="field 'floor': expected less than 1; got 2"):
        changed(find_recipe("l1"), {"allocate.floor": 2.0})
    with pytest.raises(BadInput, match="expected a name, a Recipe or a function"):
        find_recipe(3)


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_survives_json(name):
    recipe = RECIPES[name].value
    assert Recipe(**json.loads(json.dumps(to_plain(recipe)))) == recipe


def test_choices_are_changed_by_dotted_fields_tables_and_kinds():
    eagleeye = RECIPES["eagleeye"].value
    assert changed(eagleeye, {"allocate.tries": 3, "allocate.floor": 0.2}).allocate == Search(
        3, replace(eagleeye.allocation, floor=0.2)
    )
    assert changed(eagleeye, {"allocate.kind": "uniform"}).allocate == Uniform()
    assert changed(eagleeye, {"score": {"kind": "gates", "steps": 3}}).score == Gates(steps=3)
    assert changed(eagleeye, {"cut.only": ["heads"]}).cut == Axes(only=("heads",))
    assert changed(eagleeye, {"heal": ["ridge", {"kind": "fine-tune", "epochs": 2}]}).heal == (
        Ridge(),
        FineTune(epochs=2),
    )
    tuned = changed(eagleeye, {"heal.fine-tune.epochs": 2, "heal.ridge.kind": "ridge"})
    assert tuned.heal == (FoldMeans(), RefreshNorms(), Ridge(), FineTune(epochs=2))


@pytest.mark.parametrize("old", ["floor", "criterion", "training", "refit", "learn", "streams"])
def test_a_field_of_the_flat_recipes_is_refused_with_its_new_name(old):
    with pytest.raises(BadInput, match=f"'{old}': recipes are five choices now; write '"):
        changed(Recipe(), tomllib.loads(f"{old} = 1"))


def test_a_recipe_that_contradicts_itself_is_refused():
    with pytest.raises(BadInput, match="fine-tune as the last step"):
        Recipe(heal=(FineTune(), RefreshNorms()))
    with pytest.raises(BadInput, match="expected a schedule"):
        Recipe(cut=Weights())
    with pytest.raises(BadInput, match="'erdos-renyi' allocates weights"):
        Recipe(allocate=ErdosRenyi())
    with pytest.raises(BadInput, match="expected every step once; got 'ridge' 2 times"):
        Recipe(heal=(Ridge(), Ridge()))
