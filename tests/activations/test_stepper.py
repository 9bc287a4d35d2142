"""A forward taken operator by operator is the forward, and sees what is changed on the way."""

import pytest
import torch
from torch import nn

from sartor.activations.stepper import Stepper
from sartor.borrow import borrowed
from sartor.errors import CannotTrace
from sartor.structure.example import call, map_tensors, tensors
from sartor.testing.zoo import ZOO


@pytest.mark.parametrize("name", sorted(ZOO))
def test_steps_make_up_the_forward_and_leave_the_model_alone(name):
    case = ZOO[name].value
    model, example = case.build(), case.example()
    other = map_tensors(lambda t: t.flip(0) if t.dim() else t, example)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    try:
        stepper = Stepper(model, [example, other])
        stepper.advance(len(stepper.ops) - 1)
    except CannotTrace as e:
        assert "depends on tensor values" in str(e) or "own tensors" in str(e)
        return
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    with borrowed(model), torch.no_grad():
        for i, x in enumerate((example, other)):
            for v, want in zip(stepper.recording.outputs, tensors(call(model, x)), strict=True):
                assert torch.allclose(stepper.get(v, i), want, rtol=1e-4, atol=1e-5)


def test_most_of_the_zoo_can_be_stepped():
    refused = 0
    for entry in ZOO.entries():
        try:
            Stepper(entry.value.build(), [entry.value.example()])
        except CannotTrace:
            refused += 1
    assert refused <= 3


def test_a_weight_changed_midway_is_seen_by_what_follows_and_only_that():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)).eval()
    x = torch.randn(4, 3)
    with torch.no_grad():
        hidden = model[1](model[0](x))
        stepper = Stepper(model, [x])
        stepper.advance(0)
        model[0].weight.zero_()
        stepper.advance(1)
        model[2].weight.fill_(2.0)
        stepper.advance(2)
        assert torch.equal(stepper.get(stepper.recording.outputs[0], 0), model[2](hidden))


def test_what_nobody_reads_any_more_is_let_go_unless_held():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    stepper = Stepper(model, [torch.randn(4, 3)])
    first, second = (stepper.ops[i].outputs[0] for i in (0, 1))
    stepper.hold([first, first])
    stepper.advance(len(stepper.ops) - 1)
    stepper.free([first])
    stepper.get(first, 0)
    stepper.free([first])
    for gone in (first, second):
        with pytest.raises(KeyError):
            stepper.get(gone, 0)


def test_batches_of_different_shapes_are_refused():
    with pytest.raises(CannotTrace, match="2 different shapes"):
        Stepper(nn.Linear(3, 3), [torch.randn(4, 3), torch.randn(5, 3)])


def test_batches_that_begin_late_see_the_weights_as_they_are():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    batches = [torch.randn(5, 3) for _ in range(3)]
    stepper = Stepper(model, batches, 1)
    stepper.hold(stepper.ops[1].outputs)
    stepper.advance(1)
    with torch.no_grad():
        model[0].weight.mul_(2)
    stepper.begin(3)
    assert stepper.batches == 3
    for i in (1, 2):
        assert torch.equal(stepper.get(stepper.ops[1].outputs[0], i), model[:2](batches[i]))
    stepper.advance(len(stepper.ops) - 1)
    assert torch.equal(stepper.get(stepper.recording.outputs[0], 2), model(batches[2]))
