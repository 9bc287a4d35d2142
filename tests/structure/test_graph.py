"""The graph that a trace gives: groups, reasons, views, and plans checked against it."""

import pytest
import torch
from tests.zoo_graphs import understood
from torch import nn

from sartor.activations.follow import replay
from sartor.errors import BadInput, CannotTrace, UnknownName
from sartor.structure import trace
from sartor.structure.rules import RULES
from sartor.testing.zoo import ZOO, cases
from sartor.types import Plan


def mlp():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def test_groups_of_a_small_network():
    graph = trace(mlp(), torch.randn(2, 4))
    (group,) = graph.groups.values()
    assert group.name == "0" and group.units == 6 and group.kind == "hidden units" and group.mixes is None
    assert {(m.tensor, m.dim, m.role) for m in group.members} == {
        ("0.weight", 0, "out"),
        ("0.bias", 0, "out"),
        ("2.weight", 1, "in"),
    }
    reasons = {f.axis: f.reason for f in graph.frozen}
    assert "input" in reasons["0.weight:1"] and "output" in reasons["2.weight:0"]


def test_unit_view_gathers_everything_of_a_unit():
    model = mlp()
    graph = trace(model, torch.randn(2, 4))
    out, _, reads = graph.groups["0"].members
    assert torch.equal(graph.unit_view("0", out, model[0].weight), model[0].weight)
    assert torch.equal(graph.unit_view("0", reads, model[2].weight), model[2].weight.t())


def test_a_model_on_the_meta_device_is_understood_alike():
    with torch.device("meta"):
        model = mlp()
    assert trace(model, torch.empty(2, 4, device="meta")).groups.keys() == trace(mlp(), torch.randn(2, 4)).groups.keys()


class Values(nn.Module):
    """Its control flow depends on values, so it cannot run on meta tensors."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.a(x)
        return self.b(x * 2 if bool(x.sum() > 0) else x)


def test_control_flow_on_values_falls_back_to_real_tensors():
    assert trace(Values(), torch.randn(2, 4)).groups["a"].units == 6


def test_the_forwards_own_error_is_told():
    with pytest.raises(CannotTrace, match="mat1 and mat2"):
        trace(mlp(), torch.randn(2, 5))


def test_unknown_operators_freeze_what_they_touch_and_say_so():
    _, _, graph = understood("unknown-op")
    assert any("no rule says how" in f.reason for f in graph.frozen)


def test_unused_parameters_are_frozen():
    _, _, graph = understood("unused-parameter")
    assert any("no operator of this forward uses it" in f.reason for f in graph.frozen)
    assert graph.groups  # a map computed only for its shape does not freeze the rest


@pytest.mark.parametrize("keep, message", [({"0": (0, 6)}, "within"), ({"no": (0,)}, "no group is called")])
def test_plans_are_checked(keep, message):
    graph = trace(mlp(), torch.randn(2, 4))
    with pytest.raises((BadInput, UnknownName), match=message):
        graph.resolve(Plan(keep, "test", graph.fingerprint))


def test_a_plan_for_another_graph_is_refused():
    graph = trace(mlp(), torch.randn(2, 4))
    with pytest.raises(BadInput, match="made for"):
        graph.resolve(Plan({"0": (0,)}, "test", "another"))


def test_tied_groups_must_keep_equal_counts():
    _, _, graph = understood("cifar-resnet-pad")
    a, b = graph.ties[0][:2]
    with pytest.raises(BadInput, match="equal counts"):
        graph.resolve(Plan({a: (0,), b: (0, 1)}, "test", graph.fingerprint))


@pytest.mark.parametrize("name", [c.name for c in cases()])
def test_replay_walks_the_same_operators_with_real_tensors(name):
    model, example, graph = understood(name)
    seen = []

    def visit(op, args, kwargs, out):
        seen.append(op.index)
        if isinstance(out, torch.Tensor):
            assert out.dim() == op.out.ndim

    replay(graph, model, example, visit)
    assert seen == list(range(len(graph.ops)))


def test_every_rule_names_a_family():
    assert len(RULES) > 200 and all(r.kind for r in RULES.values())


@pytest.mark.parametrize("name", list(ZOO))
def test_tracing_twice_gives_the_same_fingerprint_and_names(name):
    case = ZOO[name].value
    first, second = (trace(case.build(), case.example()) for _ in range(2))
    assert first.fingerprint == second.fingerprint and list(first.groups) == list(second.groups)
