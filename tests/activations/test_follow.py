"""Operators followed beside a forward: in order, with other arguments or results, off the path, on meta."""

import pytest
import torch
from torch import nn

from sartor.activations.follow import Interventions, Match, Numerics, OffPath, follow
from sartor.errors import BadInput, CannotTrace
from sartor.structure import trace
from sartor.structure.example import call
from sartor.testing.zoo import ZOO


class Turning(nn.Module):
    """A forward that takes another activation when it is told to."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.turn = nn.Linear(4, 6), nn.Linear(6, 3), False

    def forward(self, x):
        x = self.a(x)
        return self.b(torch.tanh(x) if self.turn else torch.relu(x))


@pytest.fixture
def traced():
    torch.manual_seed(0)
    model, x = Turning().eval(), torch.randn(5, 4)
    return model, trace(model, x[:2]), x


@pytest.mark.parametrize("numerics", [Numerics(), Numerics(gradients=True), Numerics(precision="bfloat16")])
@pytest.mark.parametrize("name", ["resnet", "multi-head-attention", "unet", "layer-norm-mlp"])
def test_every_recorded_operator_is_visited_once_and_in_order(name, numerics):
    case = ZOO[name].value
    model, example = case.build().eval(), case.example()
    graph, visited = trace(model, example), []
    with follow(graph.ops, model, lambda op, *_: visited.append(op.index), numerics=numerics) as walk:
        call(model, example)
    assert visited == [op.index for op in graph.ops] and walk.place == len(graph.ops) and not walk.left


@pytest.mark.parametrize("gradients", [False, True])
def test_other_arguments_and_results_are_what_the_forward_goes_on_with(traced, gradients):
    model, graph, x = traced
    first, middle, last = (op.index for op in graph.ops)
    changes = Interventions(
        before=lambda op, args: (2 * args[0], *args[1:]) if op.index == first else args,
        instead=lambda op, args, kwargs: args[0].abs() if op.index == middle else NotImplemented,
        after=lambda op, out: out + 1 if op.index == last else out,
    )
    with follow(graph.ops, model, lambda *_: None, changes=changes, numerics=Numerics(gradients=gradients)):
        result = model(x)
    with torch.no_grad():
        assert torch.allclose(result, model.b(model.a(2 * x).abs()) + 1)
    assert result.requires_grad == gradients


def test_gradients_pass_through_a_followed_forward(traced):
    model, graph, x = traced
    with follow(graph.ops, model, lambda *_: None, numerics=Numerics(gradients=True)):
        result = model(x)
    (followed,) = torch.autograd.grad(result.sum(), model.a.weight)
    (plain,) = torch.autograd.grad(model(x).sum(), model.a.weight)
    assert torch.equal(followed, plain)


def test_another_operator_is_refused_with_both_names(traced):
    model, graph, x = traced
    model.turn = True
    says = r"another path than when traced: aten.tanh.default in , expected relu"
    with pytest.raises(OffPath, match=says), follow(graph.ops, model, lambda *_: None):
        model(x)
    assert issubclass(OffPath, CannotTrace)


def test_a_forward_that_may_leave_the_path_runs_on_unvisited(traced):
    model, graph, x = traced
    model.turn = True
    visited = []
    match = Match(may_leave=lambda place: place == 1)
    with follow(graph.ops, model, lambda op, *_: visited.append(op.index), match=match) as walk:
        result = model(x)
    with torch.no_grad():
        assert visited == [0] and walk.left and walk.next is None and torch.allclose(result, model(x))


def test_what_counts_as_the_same_operator_is_the_callers_choice(traced):
    model, graph, x = traced
    model.turn = True
    visited = []
    with follow(graph.ops, model, lambda op, *_: visited.append(op.name), match=Match(same=lambda a, b: True)):
        model(x)
    assert visited == ["linear", "relu", "linear"]


def test_shapes_alone_on_meta(traced):
    _, graph, x = traced
    shadow, x, shapes = Turning().to("meta").eval(), x.to("meta"), []
    with follow(graph.ops, shadow, lambda op, a, k, out: shapes.append(tuple(out.shape)), numerics=Numerics(meta=True)):
        shadow(x)
    assert shapes == [(5, 6), (5, 6), (5, 3)]


def test_an_unknown_precision_is_refused(traced):
    model, graph, _ = traced
    numerics, says = Numerics(precision="int8"), "precision: expected one of float32, bfloat16; got 'int8'"
    with pytest.raises(BadInput, match=says), follow(graph.ops, model, lambda *_: None, numerics=numerics):
        pass
