import pytest
import torch
from torch import nn

from sartor.errors import BadInput
from sartor.train.average import Average


def test_follows_the_equation():
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average = Average(model, 0.999)
        expected = 0.0
        for t in range(1, 6):
            model.weight.fill_(float(t))
            average.update()
            d = min(0.999, (1 + t) / (10 + t))
            expected = d * expected + (1 - d) * t
    with average.applied():
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 5.0
    average.keep_()
    assert model.weight.item() == pytest.approx(expected)


def test_buffers_are_averaged_and_integers_copied():
    model = nn.BatchNorm1d(2)
    average = Average(model, 0.5)
    model.running_mean.fill_(1.0)
    model.num_batches_tracked.fill_(7)
    average.update()
    with average.applied():
        assert 0 < model.running_mean[0] < 1 and model.num_batches_tracked == 7


def test_weights_come_back_when_the_body_raises():
    model = nn.Linear(2, 2)
    average = Average(model, 0.9)
    with torch.no_grad():
        model.weight.add_(1)
    own = model.weight.detach().clone()
    with pytest.raises(RuntimeError), average.applied():
        raise RuntimeError
    assert torch.equal(own, model.weight)


@pytest.mark.parametrize("decay", [0.0, 1.0, -1.0])
def test_decay_outside_the_open_unit_interval(decay):
    with pytest.raises(BadInput):
        Average(nn.Linear(1, 1), decay)
