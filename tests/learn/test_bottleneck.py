"""Learned gates: planted truth is found, the budget is met, the formulas are the paper's."""

import importlib.util
import os
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sartor.allocate import ALLOCATORS, Cap
from sartor.cost import macs
from sartor.errors import BadInput, UnknownName
from sartor.learn import Gated, SoftBudget, learn_gates
from sartor.learn.bottleneck import binary_term, budget_term
from sartor.structure import trace
from sartor.surgery import cut
from sartor.types import Calibration, Gates, Listener, Plan

USEFUL = {"0": (1, 2, 5, 8, 11), "2": (3, 7, 9)}  # all of them fire


def planted():
    """Two hidden layers in which only the units of USEFUL reach the output; the network gives its own labels."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))
    with torch.no_grad():
        for layer in (net[0], net[2], net[4]):
            nn.init.orthogonal_(layer.weight)
            layer.weight.mul_(3)
            layer.bias.fill_(1.0)
        for name, reader in (("0", net[2]), ("2", net[4])):
            dead = torch.ones(reader.in_features, dtype=torch.bool)
            dead[list(USEFUL[name])] = False
            reader.weight[:, dead] *= 1e-3
    x = torch.randn(512, 6)
    labels = net(x).argmax(1)
    return net, trace(net, x[:1]), [(x[i : i + 64], labels[i : i + 64]) for i in range(0, 512, 64)]


def plan_for(graph, scores, keep):
    cap = Cap(lambda c: macs(graph, c), keep * macs(graph), "macs")
    units = {n: graph.groups[n].units for n in scores}
    kept = ALLOCATORS["global"].value(scores, [cap], units, ties=graph.ties, floor=0.0, round_to=1)
    return Plan(kept, "gates", graph.fingerprint)


SHARE = macs(planted()[1], {n: len(k) for n, k in USEFUL.items()}) / macs(planted()[1])


@pytest.mark.parametrize("task", ["labels", "distill", "gap"])
def test_planted_units_stay_and_gated_is_cut(task):
    net, graph, batches = planted()
    options = Gates(steps=120, task=task)
    scores = learn_gates(graph, net, Calibration(batches), SoftBudget(SHARE), options=options)
    plan = plan_for(graph, scores, SHARE)
    assert plan.keep == USEFUL
    assert macs(graph, plan.counts()) == SHARE * macs(graph)
    x = batches[0][0]
    closed = {n: torch.zeros(graph.groups[n].units) for n in plan.keep}
    for n, kept in plan.keep.items():
        closed[n][list(kept)] = 1.0
    smaller = cut(net, graph, plan)
    assert torch.allclose(Gated(graph, net)(x, closed), smaller(x), atol=1e-5)
    assert (smaller(x).argmax(1) == batches[0][1]).float().mean() > 0.95


def test_scores_are_gates_and_one_seed_gives_one_answer():
    net, graph, batches = planted()
    before = {n: t.clone() for n, t in net.state_dict().items()}
    options = Gates(steps=7)
    first, again, other = (
        learn_gates(graph, net, Calibration(batches, seed=s), SoftBudget(0.3), options=options) for s in (1, 1, 2)
    )
    for n, s in first.items():
        assert s.shape == (graph.groups[n].units,) and s.dtype == torch.float64 and s.min() >= 0 and s.max() <= 1
        assert torch.equal(s, again[n])
    assert any(not torch.equal(s, other[n]) for n, s in first.items())  # the batches come in another order
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


def test_the_loss_of_a_step_is_task_plus_beta_p_plus_gamma_h():
    net, graph, batches = planted()
    told = []
    options = Gates(steps=1, start=0.8, beta=2.0, gamma=0.5, batch=512)
    x, y = (torch.cat(t) for t in zip(*batches))
    learn_gates(
        graph,
        net,
        Calibration([(x, y)]),
        SoftBudget(0.25),
        options=options,
        listener=Listener(lambda step, done, text: told.append(text)),
    )
    widths = {n: 0.8 * g.units for n, g in graph.groups.items()}
    whole = macs(graph)
    size = 6 * widths["0"] + widths["0"] * widths["2"] + widths["2"] * 4
    with torch.no_grad():
        hidden = net[0](x).relu() * 0.8
        task = F.cross_entropy(net[4](net[2](hidden).relu() * 0.8), y)
    total = task + 2.0 * (size - 0.25 * whole) / (whole - 0.25 * whole) + 0.5 * 0.2
    assert told == [f"step 1 of 1: loss {float(total):.4f}, cost {size / whole:.1%}"]


def test_the_terms_are_the_papers():
    assert budget_term(torch.tensor(30.0), 40.0, 100.0).item() == pytest.approx(0.25)
    assert budget_term(torch.tensor(55.0), 40.0, 100.0).item() == pytest.approx(0.25)
    gates = {"a": torch.tensor([0.9, 0.2]), "b": torch.tensor([0.4])}
    assert binary_term(gates).item() == pytest.approx((0.15 + 0.4) / 2)


def test_of_the_last_steps_the_one_with_the_lowest_loss_gives_the_gates():
    net, graph, batches = planted()
    for best, tail in ((7, 0.4), (9, 0.4), (2, 1.0)):
        seen, task = [], []

        def cost(widths, seen=seen):
            seen.append({n: float(w.detach()) for n, w in widths.items()})
            return torch.stack(list(widths.values())).sum()

        def loss(output, targets, task=task, best=best):
            task.append(None)
            extra = {best + 1: 20.0, 3: 0.0}.get(len(task), 50.0)  # the third is best of all, and early
            return output.square().mean() * 0 + extra

        gates = learn_gates(
            graph,
            net,
            Calibration(batches, loss=loss, seed=3),
            SoftBudget(0.5, cost),
            options=Gates(steps=10, tail=tail),
        )
        chosen = {n: pytest.approx(float(g.sum()), abs=1e-4) for n, g in gates.items()}
        assert seen[best + 1] == chosen  # the first call asks for the whole cost
        assert sum(s == chosen for s in seen) == 1


def test_any_cost_may_be_the_budget():
    """A cost that sees one group only, with a step in it as latencies have, presses on that group only."""
    net, graph, batches = planted()

    def cost(widths):
        return 5.0 + widths["0"] + 2.0 * torch.sigmoid(4 * (widths["0"] - 8))

    gates = learn_gates(graph, net, Calibration(batches), SoftBudget(0.6, cost), options=Gates(steps=80, gamma=0.0))
    assert float(cost({"0": gates["0"].sum()})) == pytest.approx(0.6 * float(cost({"0": torch.tensor(12.0)})), rel=0.1)
    assert gates["2"].sum() > 0.8 * 10 * 0.9


def test_groups_left_out_have_no_gates_and_stay_whole():
    net, graph, batches = planted()
    gates = learn_gates(graph.only(["0"]), net, Calibration(batches), SoftBudget(0.6), options=Gates(steps=30))
    assert list(gates) == ["0"]
    assert set(plan_for(graph, gates, 0.6).keep) == {"0"}


def test_what_cannot_be_done_is_said():
    net, graph, batches = planted()
    with pytest.raises(BadInput, match="keep: expected a share"):
        learn_gates(graph, net, Calibration(batches), SoftBudget(1.0))
    with pytest.raises(BadInput, match="at least one group"):
        learn_gates(graph.only([]), net, Calibration(batches), SoftBudget(0.5))
    with pytest.raises(UnknownName, match="group"):
        learn_gates(graph.only(["9"]), net, Calibration(batches), SoftBudget(0.5))
    with pytest.raises(BadInput, match="ended after 8"):
        learn_gates(graph, net, Calibration(iter(batches)), SoftBudget(0.5), options=Gates(steps=9))
    with pytest.raises(BadInput, match="ended after 0"):
        learn_gates(graph, net, Calibration([]), SoftBudget(0.5))
    with pytest.raises(BadInput, match="a pair"):
        learn_gates(graph, net, Calibration([batches[0][0]]), SoftBudget(0.5))
    with pytest.raises(BadInput, match="step 1 to be a finite number; got nan"):
        learn_gates(graph, net, Calibration([(batches[0][0] * float("nan"), batches[0][1])]), SoftBudget(0.5))
    with pytest.raises(BadInput, match="expected a number >= 0; got -"):
        learn_gates(graph, net, Calibration(batches, loss=lambda out, y: -out.square().mean()), SoftBudget(0.5))
    with pytest.raises(BadInput, match="one number as a tensor; got"):
        learn_gates(graph, net, Calibration(batches, loss=lambda out, y: out), SoftBudget(0.5))


@pytest.mark.parametrize(
    ("field", "wrong"), [("steps", 0), ("lr", 0.0), ("start", 1.0), ("beta", -1.0), ("task", "x"), ("tail", 0.0)]
)
def test_options_out_of_range_are_named(field, wrong):
    with pytest.raises(BadInput, match=f"gates field '{field}'"):
        Gates(**{field: wrong})


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("SARTOR_DATA"), reason="SARTOR_DATA names the data folder of bench/README.md")
def test_a_trained_network_keeps_its_accuracy_without_fine_tuning():
    """ResNet-20 on CIFAR-10 with 60 % of the MACs, 40 batches: far above the magnitudes of its weights."""
    from sartor.importance import score
    from sartor.sources import load_data
    from sartor.train.evaluate import accuracy

    spec = importlib.util.spec_from_file_location(
        "cifar_resnet", Path(__file__).parents[2] / "bench" / "cifar_resnet.py"
    )
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    net = bench.trained(20)
    graph = trace(net, torch.empty(1, 3, 32, 32))
    inner = [n for n in graph.groups if n.endswith(".conv1")]
    data = load_data(f"cifar10:{bench.data_folder()}?calibration=plain", batch=64)
    batches = [batch for batch, _ in zip(data.calibration, range(40))]
    test = [batch for batch, _ in zip(data.test, range(16))]
    learned = learn_gates(graph.only(inner), net, Calibration(batches), SoftBudget(0.6), options=Gates(steps=40))
    plain = {n: s for n, s in score(graph, net, "l1").items() if n in inner}
    found = [accuracy(cut(net, graph, plan_for(graph, s, 0.6)), test) for s in (learned, plain)]
    assert found[0] > 50 and found[0] > found[1] + 15, found
