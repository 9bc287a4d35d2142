"""Distillation without labels: kept only where it helps, repeatable, and independent of how memory divides a batch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.errors import BadInput
from sartor.repair import Original
from sartor.repair import distil as distil_module
from sartor.repair.distil import Samples, distilled, samples_apart
from sartor.repair.gap import output_gap, outputs
from sartor.repair.repair_step import heal
from sartor.repair.sample_pool import SamplePool
from sartor.repair.taps import block_ends, tapped
from sartor.seed import seeded
from sartor.structure import trace
from sartor.surgery import cut
from sartor.testing.plans import halves
from sartor.types import Calibration, Distil, Listener, Plan, Recipe, Ridge


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(width, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.b = nn.Conv2d(16, width, 3, padding=1)
        self.inner = nn.Sequential(self.b)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.inner(F.relu(self.norm(self.a(x)))))


class Blocks(nn.Module):
    """Two residual blocks with dropout behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Block(8), Block(8))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.blocks(F.relu(self.stem(x))).mean((2, 3))))


@pytest.fixture
def case():
    """(cut network, original, calibration batches)."""
    with seeded(0):
        model = Blocks().eval()
        batches = [torch.randn(16, 3, 8, 8) for _ in range(5)]
    graph = trace(model, batches[0][:1])
    plan = halves(graph)
    return cut(model, graph, plan), Original(model, graph, plan), batches


QUICK = Distil(steps=24, lr=3e-3, batch=16)


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items())


def test_held_out_outputs_come_closer_and_nothing_else_changes(case) -> None:
    smaller, original, batches = case
    before = copy.deepcopy(smaller.state_dict()), copy.deepcopy(original.model.state_dict())
    better, report = distilled(smaller, original, Samples(batches[:4], batches[4:]), QUICK)
    targets = outputs(original.model, batches[4:])
    assert report["kept"] and report["steps"] == 24 and report["bounded_by"] == "steps"
    assert output_gap(better, batches[4:], targets) == pytest.approx(report["after"], rel=1e-5)
    assert report["after"] < report["before"]
    for network, state in zip((smaller, original.model), before):
        assert all(torch.equal(t, network.state_dict()[n]) for n, t in state.items())
    statistics = [n for n in smaller.state_dict() if "running" in n]
    assert statistics and all(torch.equal(smaller.state_dict()[n], better.state_dict()[n]) for n in statistics)
    assert all(p.is_contiguous() and p.grad is None for p in better.parameters())
    assert [m.training for m in better.modules()] == [m.training for m in smaller.modules()]


def test_a_training_that_does_not_help_changes_nothing(case) -> None:
    smaller, original, batches = case
    same, report = distilled(smaller, original, Samples(batches[:4], batches[4:]), Distil(steps=4, lr=1e3))
    assert same is smaller and not report["kept"] and report["after"] == report["before"]


def test_the_same_seed_and_steps_give_the_same_weights(case) -> None:
    smaller, original, batches = case
    one, two, other = (
        distilled(smaller, original, Samples(batches[:4], batches[4:]), QUICK, seed=s)[0] for s in (1, 1, 2)
    )
    assert equal(one, two) and not equal(one, other)


class Clock:
    """A second passes with every look; from one look on, as many seconds as are said."""

    def __init__(self, slow_from: int = 10**9, each: float = 0.0) -> None:
        self.now, self.looks, self.slow_from, self.each = 0.0, 0, slow_from, each

    def monotonic(self) -> float:
        self.looks += 1
        self.now += self.each if self.looks > self.slow_from else 1.0
        return self.now


def test_a_training_that_time_shortened_is_repeated_by_its_steps(case, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller, original, batches = case
    notes: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr(distil_module, "time", Clock())
        timed, report = distilled(
            smaller,
            original,
            Samples(batches[:4], batches[4:]),
            Distil(minutes=1.0, lr=3e-3, passes=500),
            listener=Listener(note=notes.append),
        )
    assert report["kept"] and report["bounded_by"] == "time" and 40 < report["steps"] < 60
    assert f"heal.distil.steps={report['steps']}" in notes[0]
    again, _ = distilled(smaller, original, Samples(batches[:4], batches[4:]), Distil(steps=report["steps"], lr=3e-3))
    assert equal(timed, again)


def test_a_training_ends_at_the_deadline_on_a_machine_that_became_slow(case, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller, original, batches = case
    notes: list[str] = []
    monkeypatch.setattr(distil_module, "time", Clock(slow_from=20, each=100.0))
    _, report = distilled(
        smaller, original, Samples(batches[:4], batches[4:]), Distil(minutes=1.0), listener=Listener(note=notes.append)
    )
    assert report["bounded_by"] == "deadline" and report["steps"] < 25 and "another network" in notes[0]
    assert report["after"] < report["before"]  # the weights of the last step were compared too


def test_a_batch_in_parts_trains_as_the_whole_batch_does(case, monkeypatch: pytest.MonkeyPatch) -> None:
    smaller, original, batches = case
    plain = Distil(steps=6, batch=16, augment="none")
    samples = Samples(batches[:4], batches[4:])
    _, whole = distilled(smaller, original, samples, plain)
    monkeypatch.setattr(distil_module, "samples_within", lambda *a, **k: 4)
    _, divided = distilled(smaller, original, samples, plain)
    assert whole["kept"] and divided["after"] == pytest.approx(whole["after"], rel=1e-3)


def test_parameters_that_require_no_gradient_stay(case) -> None:
    smaller, original, batches = case
    smaller.stem.requires_grad_(False)
    better, report = distilled(smaller, original, Samples(batches[:4], batches[4:]), QUICK)
    assert report["kept"] and torch.equal(better.stem.weight, smaller.stem.weight)
    assert not torch.equal(better.head.weight, smaller.head.weight)
    smaller.requires_grad_(False)
    same, report = distilled(smaller, original, Samples(batches[:4], batches[4:]), QUICK)
    assert same is smaller and report["steps"] == 0


def test_blocks_are_compared_where_sums_are_and_for_the_channels_that_stay(case) -> None:
    smaller, original, batches = case
    taps = block_ends(original, batches[0])
    assert [t.module for t in taps] == ["blocks.0", "blocks"]  # `inner` is a summand, `blocks.1` the same tensor
    with tapped(original.model, taps) as wanted, tapped(smaller, taps) as given, torch.no_grad():
        original.model(batches[0]), smaller(batches[0])
    assert all(t.of_original(wanted[t.module]).shape == given[t.module].shape for t in taps)
    uncut = Original(original.model, original.graph, Plan({}, "test", original.graph.fingerprint))
    assert all(not t.kept for t in block_ends(uncut, batches[0]))


def test_a_pass_draws_every_sample_once_and_keeps_their_tensors_together() -> None:
    batches = [{"x": torch.arange(n * 2.0).reshape(n, 2) + 100 * n, "y": torch.arange(n) + 50 * n} for n in (3, 5, 4)]
    shared = {"x": torch.zeros(2, 2), "mask": torch.ones(3, 3)}
    pool = SamplePool([*batches, shared], 4, seed=0)
    drawn = list(pool.passed_once())
    assert len(drawn) == pool.steps == 4 and any(d is shared for d in drawn)
    mixed = [d for d in drawn if "y" in d]
    pairs = sorted((int(y), x.tolist()) for d in mixed for x, y in zip(d["x"], d["y"]))
    assert pairs == sorted((int(y), x.tolist()) for b in batches for x, y in zip(b["x"], b["y"]))
    again = [d["y"].tolist() for d in pool.passed_once() if "y" in d]
    assert again != [d["y"].tolist() for d in mixed]


def test_distil_is_a_step_of_heal_in_its_place(case) -> None:
    smaller, original, batches = case
    calibration = Calibration([(b, None) for b in batches], samples=100)
    with seeded(0):
        healed, facts = heal(smaller, original, (Ridge(), QUICK), calibration)
    assert list(facts) == ["refit", "distil"] and facts["distil"]["before"] == pytest.approx(facts["refit"]["after"])
    assert facts["distil"]["kept"] and healed is not smaller
    recipe = Recipe(heal=(Ridge(), Distil(minutes=5)))
    assert recipe.repairs == (Ridge(), Distil(minutes=5.0))


def test_one_batch_is_divided_and_too_few_samples_are_noted(case) -> None:
    smaller, original, batches = case
    _, facts = heal(smaller, original, (QUICK,), Calibration([(torch.cat(batches), None)]))
    assert facts["distil"]["steps"] == 24
    notes: list[str] = []
    same, facts = heal(smaller, original, (QUICK,), Calibration([(batches[0][:4], None)]), Listener(note=notes.append))
    assert same is smaller and facts["distil"] == {"kept": False, "steps": 0} and "fewer than 16" in notes[0]
    with pytest.raises(BadInput, match="at least two calibration samples"):
        samples_apart([torch.zeros(1, 3)], 0.1)
    with pytest.raises(BadInput, match="expected calibration inputs"):
        distilled(smaller, original, Samples([], batches), QUICK)
