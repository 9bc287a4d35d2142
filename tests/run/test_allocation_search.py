"""Allocations tried on calibration data: never worse than the start, within the budget, the same from the same seed."""

import pytest
import torch
from torch import nn

import sartor
from sartor.cost import count
from sartor.errors import BadInput
from sartor.run.allocation_search import improved_scores, vary
from sartor.run.context import Context
from sartor.run.subject import Subject
from sartor.seed import seeded
from sartor.structure import trace
from sartor.types import Criterion, Plan, Recipe, Search


def net():
    with seeded(0):
        return nn.Sequential(
            nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4)
        ).eval()  # fmt: skip


def batches(n=4):
    g = torch.Generator().manual_seed(1)
    return [torch.randn(16, 6, generator=g) for _ in range(n)]


def subject(model, graph, inputs):
    return Subject(model, inputs[0][:1], graph, count(graph), samples=tuple((x, None) for x in inputs))


def test_tries_never_end_further_away_than_they_began():
    model = net()
    graph = trace(model, batches()[0])
    scores = {n: torch.arange(1.0, g.units + 1) for n, g in graph.groups.items()}

    def plan_of(s):
        order = sorted((float(v), n, i) for n, t in s.items() for i, v in enumerate(t))
        gone = {(n, i) for _, n, i in order[:10]}
        keep = {n: tuple(i for i in range(g.units) if (n, i) not in gone) or (0,) for n, g in graph.groups.items()}
        return Plan(keep, "test", graph.fingerprint)

    runs = [improved_scores(subject(model, graph, batches()), scores, plan_of, 12, Context(seed=3)) for _ in range(2)]
    gaps = [step["gap"] for step in runs[0][1]]
    assert gaps == sorted(gaps, reverse=True) and len(gaps) >= 2
    assert runs[0][1] == runs[1][1]
    assert all(torch.equal(runs[0][0][n], runs[1][0][n]) for n in scores)


def test_a_recipe_with_search_meets_its_budget():
    data = [(x, torch.zeros(16, dtype=torch.int64)) for x in batches()]
    fitted = sartor.fit(net(), data, budget="macs<=50%", recipe=Recipe(score=Criterion("l2"), allocate=Search(tries=5)))
    assert fitted.met and "search" in fitted.result["seconds"]


def test_factors_order_groups_not_units_and_tied_groups_move_together():
    scores = {n: torch.tensor([3.0, 1.0, 2.0]) for n in "abc"}
    generator = torch.Generator().manual_seed(2)
    varied = [vary(scores, [("a", "b")], 1.0, generator) for _ in range(8)]
    assert all(torch.equal(v["a"], v["b"]) for v in varied)
    assert all(torch.equal(v[n].argsort(), scores[n].argsort()) for v in varied for n in scores)
    assert all(any(not torch.equal(v[n], scores[n]) for v in varied) for n in scores)


def test_one_batch_cannot_be_held_apart():
    model = net()
    graph = trace(model, batches()[0])
    with pytest.raises(BadInput, match="2 calibration batches"):
        improved_scores(subject(model, graph, batches(1)), {}, lambda s: None, 1, Context())
