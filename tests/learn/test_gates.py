"""Gates: at 1 nothing changes, at 0 the unit is gone, in between its activation is scaled."""

import pytest
import torch
from tests.zoo_graphs import understood
from torch import nn

from sartor.errors import BadInput, UnknownName
from sartor.learn import Gated, gate_places
from sartor.structure import trace
from sartor.structure.example import call, tensors
from sartor.surgery import cut, silence
from sartor.testing.plans import halves
from sartor.testing.zoo import cases
from sartor.types import Plan

NOTHING = {"bilinear"}  # no group can be cut
NAMES = [c.name for c in cases(without=("hard",)) if c.name not in NOTHING]


def apart(got, want):
    """Largest difference over all outputs, relative to the largest output."""
    pairs = [(a, b) for a, b in zip(tensors(got), tensors(want)) if b.dtype.is_floating_point]
    assert pairs and all(a.shape == b.shape for a, b in pairs)
    return max(float((a - b).abs().max()) for a, b in pairs) / max(float(b.abs().max()) for _, b in pairs)


def masks(graph, plan):
    gates = {n: torch.zeros(graph.groups[n].units) for n in plan.keep}
    for n, kept in plan.keep.items():
        gates[n][list(kept)] = 1.0
    return gates


@pytest.mark.parametrize("name", NAMES)
def test_open_gates_change_nothing_and_closed_ones_are_a_cut(name):
    model, example, graph = understood(name)
    gated = Gated(graph, model)
    exact = {n: k for n, k in halves(graph).keep.items() if not graph.groups[n].mixes}
    with torch.no_grad():
        plain = call(model, example)
        assert apart(gated(example, {n: torch.ones(u) for n, u in gated.units.items()}), plain) <= 1e-6
        assert apart(gated(example, {}), plain) <= 1e-6
        if not exact:
            return
        plan = Plan(exact, "halves", graph.fingerprint)
        got = gated(example, masks(graph, plan))
        assert apart(got, call(cut(model, graph, plan), example)) <= 1e-5
        assert apart(got, call(silence(model, graph, plan), example)) <= 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_every_group_has_a_place_and_a_gradient_reaches_it(name):
    model, example, graph = understood(name)
    gated = Gated(graph, model)
    gates = {n: torch.full((u,), 0.9, requires_grad=True) for n, u in gated.units.items()}
    loss = sum(t.square().sum() for t in tensors(gated(example, gates)) if t.dtype.is_floating_point)
    slopes = torch.autograd.grad(loss, list(gates.values()), allow_unused=True)
    used = 0
    for n, slope in zip(gates, slopes):
        assert gated.places[n], n
        used += slope is not None and bool(torch.isfinite(slope).all()) and bool(slope.any())
    assert used == len(gates) or name in ("unused-parameter", "early-exit")  # what only decides has no gradient


def test_a_gate_multiplies_what_readers_see_of_a_unit():
    torch.manual_seed(0)
    first, norm, second = nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)
    with torch.no_grad():
        norm.bias.normal_()
    net = nn.Sequential(first, norm, nn.Sigmoid(), second, nn.Flatten(), nn.Linear(16, 2)).eval()
    x = torch.randn(2, 3, 6, 6)
    graph = trace(net, x)
    gate = torch.rand(6)
    got = Gated(graph, net)(x, {"0": gate})
    want = net[3:](torch.sigmoid(norm(first(x))) * gate[:, None, None])
    assert torch.allclose(got, want, atol=1e-6)
    assert gate_places(graph, ["0"]) == {"0": (("3.weight", 1),)}


class Similarity(nn.Module):
    """Units that are summed over without weights as well as with them."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x):
        h = self.a(x).relu()
        return self.b(h) + h.square().sum(-1, keepdim=True)


def test_units_summed_over_without_weights_are_gated_everywhere():
    torch.manual_seed(0)
    net, x = Similarity(), torch.randn(4, 5)
    graph = trace(net, x)
    (name,) = graph.groups
    assert set(gate_places(graph)[name]) == {("a.weight", 0), ("a.bias", 0), ("b.weight", 1)}
    gate = torch.tensor([1.0, 0, 1, 0, 1, 1])
    kept = Plan({name: (0, 2, 4, 5)}, "t", graph.fingerprint)
    assert torch.allclose(Gated(graph, net)(x, {name: gate}), cut(net, graph, kept)(x), atol=1e-6)


def test_the_model_is_as_it_was():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 2)).train()
    x = torch.randn(8, 4)
    graph = trace(net, x)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    identities = {n: id(p) for n, p in net.named_parameters()}
    gate = torch.full((6,), 0.5, requires_grad=True)
    gated = Gated(graph, net)
    out = gated(x, {"0": gate})
    assert torch.equal(out, gated(x, {"0": gate}))  # dropout is off
    out.sum().backward()
    assert gate.grad is not None and all(p.grad is None and p.requires_grad for p in net.parameters())
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert {n: id(p) for n, p in net.named_parameters()} == identities
    assert all(m.training for m in net.modules())


def test_only_the_groups_asked_for_have_gates():
    model, example, graph = understood("resnet")
    first, second = list(graph.groups)[:2]
    gated = Gated(graph, model, [first])
    assert list(gated.units) == [first]
    with pytest.raises(BadInput, match="expected groups with gates"):
        gated(example, {second: torch.ones(graph.groups[second].units)})
    with pytest.raises(BadInput, match="one a unit; got"):
        gated(example, {first: torch.ones(1)})
    with pytest.raises(UnknownName, match="group"):
        Gated(graph, model, ["nothing"])
