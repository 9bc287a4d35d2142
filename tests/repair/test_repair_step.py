"""Steps of a repair run in the order given, and each does what its own function does."""

import copy

import pytest
import torch
from torch import nn

from sartor.errors import BadInput
from sartor.repair import Original, fold_means_, refit_consumers_, refresh_norm
from sartor.repair.repair_step import heal
from sartor.seed import seeded
from sartor.structure import trace
from sartor.surgery import cut
from sartor.testing.plans import halves
from sartor.types import Calibration, FoldMeans, Listener, Plan, RefreshNorms, Ridge


@pytest.fixture
def cut_network():
    """(cut network, original, calibration)."""
    with seeded(0):
        model = nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
            nn.Linear(32, 3),
        ).eval()  # fmt: skip
        batches = [(torch.randn(16, 2, 6, 6), torch.zeros(16)) for _ in range(8)]
    graph = trace(model, batches[0][0][:1])
    plan = halves(graph)
    return cut(model, graph, plan), Original(model, graph, plan), Calibration(batches, samples=100, seed=3)


def equal(a, b):
    return all(torch.equal(t, b.state_dict()[n]) for n, t in a.state_dict().items())


def test_no_steps_change_nothing(cut_network):
    smaller, original, calibration = cut_network
    before = copy.deepcopy(smaller)
    healed, facts = heal(smaller, original, (), calibration)
    assert equal(healed, before) and facts == {}


def test_a_fold_alone_is_fold_means(cut_network):
    smaller, original, calibration = cut_network
    by_hand = copy.deepcopy(smaller)
    layers = fold_means_(by_hand, original, [x for x, _ in calibration.batches], samples=100)
    healed, facts = heal(smaller, original, [FoldMeans()], calibration)
    assert equal(healed, by_hand) and facts == {"folded": layers}


def test_a_kept_refit_is_refit_consumers_and_nothing_is_folded_behind_it(cut_network):
    smaller, original, calibration = cut_network
    by_hand, progress = copy.deepcopy(smaller), []
    refit_consumers_(by_hand, original, [x for x, _ in calibration.batches[:-1]], seed=3)  # the last one judges
    listener = Listener(lambda step, done, text: progress.append(done))
    healed, facts = heal(smaller, original, [Ridge(), FoldMeans()], calibration, listener)
    assert equal(healed, by_hand) and facts["refit"]["kept"] and "folded" not in facts
    assert progress == sorted(progress) and len(progress) >= facts["refit"]["layers"] > 0


def test_means_are_folded_where_the_fold_comes_first(cut_network):
    smaller, original, calibration = cut_network
    _, facts = heal(smaller, original, [FoldMeans(), Ridge()], calibration)
    assert list(facts) == ["folded", "refit"] and facts["folded"]


def test_refreshed_statistics_are_judged_on_held_out_data_and_taken_from_all(cut_network):
    _, original, calibration = cut_network
    inputs = [x for x, _ in calibration.batches]
    model = refresh_norm(original.model, inputs, samples=128)
    original = Original(model, original.graph, Plan({}, "test", original.graph.fingerprint))
    spoiled = copy.deepcopy(model)
    with torch.no_grad():
        spoiled[1].running_var.mul_(100.0)
    by_hand = refresh_norm(spoiled, inputs, samples=100)
    healed, facts = heal(spoiled, original, [RefreshNorms()], calibration)
    assert facts["norm"]["kept"] and facts["norm"]["after"] > facts["norm"]["before"]
    assert equal(healed, by_hand) and not equal(healed, spoiled)


def test_other_steps_are_refused(cut_network):
    smaller, original, calibration = cut_network
    with pytest.raises(BadInput, match=r"expected the steps ridge, .*, distil and clip-activations; got 'ridge'"):
        heal(smaller, original, ["ridge"], calibration)
