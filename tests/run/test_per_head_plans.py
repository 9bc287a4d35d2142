"""Rows of a fibred plan: pairs scored like units, the best of every row kept, through a whole run."""

import json

import pytest
import torch
from tests.structure.test_fibres import FIBRED, TwoHeads, same
from tests.zoo_graphs import understood
from torch import Tensor, nn

import sartor
from sartor.cost import count
from sartor.errors import BadInput
from sartor.importance import score
from sartor.importance.pairs import paired
from sartor.recipes import changed, find_recipe
from sartor.run.context import Context
from sartor.run.folder import load
from sartor.run.per_head_plans import per_head_plan
from sartor.run.stages import understand, with_held_out
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.structure import trace
from sartor.structure.example import batch_of, call, first_tensor
from sartor.studies.score_recipes import plan_at, score_recipes
from sartor.surgery import cut, probe
from sartor.testing.plans import halves
from sartor.types import Axes, Calibration, Criterion, Listener, Plan, Recipe, Scaling

PLAIN = {"reduce": "sum", "normalise": "none"}


def squares(weight: Tensor) -> Tensor:
    return weight.square().sum(1)


def products(weight: Tensor, grad: Tensor) -> Tensor:
    return (weight * grad).sum(1)


def carried(activation: Tensor) -> Tensor:
    return activation.square().flatten(1).sum(1)


def effect(contribution: Tensor) -> Tensor:
    return contribution.sum(1)


def read(activation: Tensor, reader: Tensor) -> Tensor:
    return reader.square().flatten(1).sum(1)


def batch(model, example):
    return [(example, torch.zeros(batch_of(example)))]


def of(model, graph):
    return Subject(model, graph.example, graph, count(graph))


def loss(output, targets):
    return first_tensor(output).square().mean()


@pytest.mark.parametrize("name", FIBRED)
@pytest.mark.parametrize("criterion", [squares, products])
def test_what_pairs_are_worth_adds_up_to_what_the_inner_unit_is_worth(name, criterion):
    model, example, graph = understood(name)
    names = list(graph.fibres)
    options = {"calibration": Calibration(batch(model, example), loss=loss), "scaling": Scaling(**PLAIN)}
    whole = score(graph.only(names), model, criterion, **options)
    pairs = score(paired(graph, names), model, criterion, **options)
    for n in names:
        rows = pairs[n].reshape(graph.fibres[n].size, -1)
        torch.testing.assert_close(rows.sum(0), whole[n])
        assert (rows - rows[:1]).abs().max() > 0  # and rows differ


@pytest.mark.parametrize("name", ["regnet", "resnext", "depthwise-multiplier", "conv-transpose-grouped"])
@pytest.mark.parametrize("criterion", [carried, effect, read])
def test_activations_of_pairs_add_up_too_where_one_dimension_carries_both(name, criterion):
    model, example, graph = understood(name)
    names = list(graph.fibres)
    options = {"calibration": Calibration(batch(model, example), loss=loss), "scaling": Scaling(**PLAIN)}
    whole = score(graph.only(names), model, criterion, **options)
    pairs = score(paired(graph, names), model, criterion, **options)
    for n in names:
        torch.testing.assert_close(pairs[n].reshape(graph.fibres[n].size, -1).sum(0), whole[n], rtol=1e-5, atol=1e-9)


@pytest.fixture(scope="module")
def two_heads():
    model = TwoHeads().eval()
    example = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    return model, example, probe(model, trace(model, example))


@pytest.mark.parametrize("criterion", ["l2", "taylor", "wanda", "flap", "0.5*l1 + 0.5*fpgm"])
def test_every_head_keeps_the_units_it_uses(two_heads, criterion):
    model, example, graph = two_heads
    samples = [(torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(i)), torch.zeros(8)) for i in range(2)]
    plan = per_head_plan(of(model, graph), same(graph), criterion, calibration=Calibration(samples, loss=loss))
    assert set(plan.fibres.values()) == {((0, 1), (2, 3))}
    assert (call(cut(model, graph, plan), example) - call(model, example)).abs().max() < 1e-6


@pytest.mark.parametrize("criterion", ["ablation", "reconstruction", "bn-scale"])
def test_what_cannot_be_asked_for_pairs_is_said_and_l2_does(two_heads, criterion):
    model, _, graph = two_heads
    notes = []
    assert per_head_plan(of(model, graph), same(graph), criterion, listener=Listener(note=notes.append)).fibres
    assert len(notes) == 1 and criterion in notes[0] and "l2" in notes[0]


@pytest.mark.parametrize("name", FIBRED)
def test_rows_hold_at_least_as_much_score_as_one_mask_at_equal_counts(name):
    model, _, graph = understood(name)
    plan = halves(graph)
    fine = per_head_plan(of(model, graph), plan, squares, scaling=Scaling(**PLAIN))
    assert fine.keep == plan.keep and set(fine.fibres) == set(graph.fibres)
    pairs = score(paired(graph, graph.fibres), model, squares, scaling=Scaling(**PLAIN))
    for n, rows in fine.fibres.items():
        worth = pairs[n].reshape(len(rows), -1)
        for h, row in enumerate(rows):
            assert worth[h, list(row)].sum() >= worth[h, list(plan.keep[n])].sum() - 1e-12


def test_pairs_have_no_positions_along_one_dimension(two_heads):
    _, _, graph = two_heads
    name = next(iter(graph.fibres))
    with pytest.raises(BadInput, match="unit_view"):
        paired(graph, [name]).positions(name, graph.groups[name].members[0])


def test_a_plan_that_cuts_nothing_fibrable_stays_as_it_is(two_heads):
    model, _, graph = two_heads
    other = next(n for n in graph.groups if n not in graph.fibres)
    plan = Plan({other: (0,)}, "test", graph.fingerprint)
    assert per_head_plan(of(model, graph), plan, "l2") is plan


class Grouped(nn.Module):
    """Two convolutions in groups between two that are not."""

    def __init__(self) -> None:
        super().__init__()
        sizes = ((1, 16, 1), (16, 16, 4), (16, 16, 4), (16, 8, 1))
        layers = [[nn.Conv2d(a, b, 3, padding=1, groups=g), nn.ReLU()] for a, b, g in sizes]
        self.body = nn.Sequential(*(x for pair in layers for x in pair))
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean((2, 3)))


def images(seed=0):
    g = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, 1, 8, 8, generator=g), torch.randint(4, (16,), generator=g)) for _ in range(3)]


def test_a_recipe_asks_for_fibres_and_the_run_writes_files_that_load(tmp_path):
    with seeded(0):
        net = Grouped().eval()
    recipe = Recipe(name="rows", score=Criterion("taylor"), cut=Axes(fibres=True))
    fitted = sartor.fit(net, images(), budget="macs<=50%", recipe=recipe, out=tmp_path / "run")
    raw = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert raw["fibres"] and fitted.result["proof"]["passed"]
    plain = sartor.fit(net, images(), budget="macs<=50%", recipe=Recipe(name="one", score=Criterion("taylor")))
    assert fitted.result["counted"] == plain.result["counted"] and fitted.plan.keep == plain.plan.keep
    again = load(tmp_path / "run", Grouped)
    x = images(1)[0][0]
    assert torch.equal(again(x), fitted.model(x)) and not torch.equal(again(x), plain.model(x))


def test_a_recipe_that_asks_for_fibres_says_when_there_are_none():
    net = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)).eval()
    fitted = sartor.fit(net, images(), budget="macs<=50%", recipe=Recipe(cut=Axes(fibres=True)))
    assert not fitted.plan.fibres and any("asks for fibres" in n for n in fitted.result["notes"])


def test_sweeps_take_the_fibres_of_a_recipe_too():
    with seeded(0):
        net = Grouped().eval()
    subject = with_held_out(understand(net, images()[0][0][:1]), images(), 32)
    recipe = Recipe(name="rows", cut=Axes(fibres=True))
    scores, _ = score_recipes(subject, [recipe], Context())
    assert plan_at(subject, recipe, scores["rows"], 0.5, Context()).fibres


def test_recipe_files_know_the_field():
    taylor = find_recipe("taylor")
    assert changed(taylor, {"cut.fibres": True}).cut.fibres and not taylor.cut.fibres
