"""Gaps are those of the silenced network; estimates are first order; the budget is kept and said."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.errors import BadInput
from sartor.importance import score
from sartor.structure import trace
from sartor.surgery.silence import silence
from sartor.types import SILENT, Calibration, Listener, Plan, Scaling

PLAIN = Scaling(normalise="none")


def without(model, graph, group, unit):
    """The network with one unit silenced, as the proof of a cut does it."""
    kept = tuple(i for i in range(graph.groups[group].units) if i != unit)
    return silence(model, graph, Plan({group: kept}, "test", graph.fingerprint)).eval()


def test_without_a_loss_it_is_the_relative_squared_distance_of_the_silenced_network(model, graph, batches):
    model.eval()
    s = score(graph, model, "ablation", calibration=Calibration(batches), scaling=PLAIN)
    x = torch.cat([b[0] for b in batches])
    with torch.no_grad():
        want = model(x)
        for group, g in graph.groups.items():
            for unit in range(g.units):
                far = (without(model, graph, group, unit)(x) - want).square().sum() / want.square().sum()
                assert float(s[group][unit]) == pytest.approx(float(far), rel=1e-3, abs=1e-9), (group, unit)


def test_with_a_loss_it_is_the_rise_of_the_mean_over_samples(model, graph, batches):
    model.eval()
    uneven = [batches[0], (batches[1][0][:1], batches[1][1][:1])]
    s = score(
        graph.only(["inner"]), model, "ablation", calibration=Calibration(uneven, loss=F.cross_entropy), scaling=PLAIN
    )
    x, y = (torch.cat(t) for t in zip(*uneven))
    with torch.no_grad():
        for unit in range(8):
            rise = F.cross_entropy(without(model, graph, "inner", unit)(x), y) - F.cross_entropy(model(x), y)
            assert float(s["inner"][unit]) == pytest.approx(float(rise), rel=1e-3, abs=1e-6)
    assert float(s["inner"].min()) < 0 < float(s["inner"].max())


def test_only_the_first_samples_are_run(model, graph, batches):
    few = score(graph, model, "ablation", calibration=Calibration(batches, pass_samples=6), scaling=PLAIN)
    cut = [batches[0], (batches[1][0][:2], batches[1][1][:2])]
    want = score(graph, model, "ablation", calibration=Calibration(cut), scaling=PLAIN)
    assert all(torch.equal(few[g], want[g]) for g in want)


def test_the_passes_are_spent_on_what_looks_least_and_the_rest_is_said(model, graph, batches):
    exact = score(graph, model, "ablation", calibration=Calibration(batches), scaling=PLAIN)
    runs, notes = [], []
    model.stem.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    some = score(
        graph,
        model,
        "ablation",
        calibration=Calibration(batches, passes=10),
        scaling=PLAIN,
        listener=Listener(note=notes.append),
    )
    assert len(notes) == 1 and "10 units were silenced one by one, the other 9 are scored" in notes[0]
    assert "passes=19" in notes[0]
    assert len(runs) == 3 * (1 + 10 + 4)  # the original, the passes, one derivative for each of four outputs
    for group in ("stem", "inner"):  # the hidden layer's gates are linear in the outputs: both kinds agree
        same = torch.isclose(some[group], exact[group], rtol=1e-6)
        assert 0 < int(same.sum()) < len(same)


class Line(nn.Module):
    """A network whose output is linear in the hidden units: the first order is everything."""

    def __init__(self, outputs):
        super().__init__()
        self.up, self.head = nn.Linear(5, 7), nn.Linear(7, outputs)

    def forward(self, x):
        return self.head(torch.tanh(self.up(x)))


@pytest.mark.parametrize("outputs", [3, 600])
def test_the_estimate_is_exact_where_the_outputs_are_linear_in_the_gate(outputs):
    """With up to 16 outputs in full; with many, on average over 16 random mixtures of them."""
    torch.manual_seed(0)
    model, x = Line(outputs), torch.randn(40, 5)
    graph = trace(model, x[:1])
    exact = score(graph, model, "ablation", calibration=Calibration([(x, x)]), scaling=PLAIN)["up"]
    guess = score(
        graph, model, lambda gap: gap.estimate(), calibration=Calibration([(x, x)]), scaling=PLAIN, listener=SILENT
    )["up"]
    assert torch.allclose(exact, guess, rtol=1e-4 if outputs == 3 else 0.3)
    again = score(
        graph, model, lambda gap: gap.estimate(), calibration=Calibration([(x, x)]), scaling=PLAIN, listener=SILENT
    )["up"]
    assert torch.equal(guess, again)


def test_a_linear_loss_is_estimated_exactly_too():
    torch.manual_seed(0)
    model, x = Line(3), torch.randn(6, 5)
    graph = trace(model, x[:1])
    options = {
        "calibration": Calibration([(x, x)], loss=lambda output, targets: output[:, 1].mean()),
        "scaling": PLAIN,
        "listener": SILENT,
    }
    exact = score(graph, model, "ablation", **options)["up"]
    assert torch.allclose(exact, score(graph, model, lambda gap: gap.estimate(), **options)["up"], rtol=1e-4)


def test_a_criterion_may_ask_for_pairs(model, graph, batches):
    """The gap of two units is that of silencing both."""
    asked = []

    def pairs(gap):
        stays = torch.ones(gap.units, dtype=torch.bool)
        stays[:2] = False
        asked.append((gap.units, gap(stays)))
        with pytest.raises(BadInput, match="expected a bool tensor of shape"):
            gap(stays.float())
        return torch.zeros(gap.units)

    model.eval()
    score(graph.only(["inner"]), model, pairs, calibration=Calibration(batches), scaling=PLAIN)
    gone = copy.deepcopy(model)
    with torch.no_grad():
        gone.outer.weight[:, :2] = 0
        x = torch.cat([b[0] for b in batches])
        far = (gone(x) - model(x)).square().sum() / model(x).square().sum()
    assert asked == [(8, pytest.approx(float(far), rel=1e-3))]
