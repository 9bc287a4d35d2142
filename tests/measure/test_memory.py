"""Activation memory: worked values, and how it grows."""

import torch
from torch import nn
from torch.nn import functional as F

from sartor.measure import measured_memory
from sartor.structure.example import with_batch


class Forward(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def test_an_mlp_by_hand():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    # input 3*4, and both sides of the ReLU 3*8, four bytes each; the head's output is smaller than what is released
    assert measured_memory(net, torch.ones(3, 4)) == 4 * (12 + 24 + 24)
    assert measured_memory(net, torch.ones(3, 4), inputs=False) == 4 * (24 + 24)


def test_views_and_in_place_cost_nothing_and_what_is_released_counts_no_more():
    x = torch.ones(10)
    assert measured_memory(Forward(lambda x: x.view(2, 5).t()), x) == 40
    assert measured_memory(Forward(lambda x: F.relu(x + 1, inplace=True)), x) == 80
    assert measured_memory(Forward(lambda x: x + 1 + 1 + 1 + 1), x) == 120

    def keeps(x):
        a = x + 1
        b = a + 1
        c = b + 1
        return a + b + c

    # x a b c, then a+b, then the sum of all
    assert measured_memory(Forward(keeps), x) == 6 * 40


def test_it_counts_bytes_not_elements():
    assert measured_memory(Forward(lambda x: x + 1), torch.ones(10, dtype=torch.float64)) == 160


def test_it_grows_with_the_batch_and_does_not_change_the_model(residual):
    model, example = residual
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    one = measured_memory(model, with_batch(example, 1))
    assert measured_memory(model, with_batch(example, 4)) == 4 * one
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_the_same_twice(network):
    assert measured_memory(*network) == measured_memory(*network) > 0
