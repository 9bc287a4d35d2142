"""Squared gradients of each sample's loss, together and one by one, where vmap is possible and where it is not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.activations.sample_gradients import SampleGradients
from sartor.errors import BadInput
from sartor.structure import trace


class Convolutional(nn.Module):
    """A batch norm, a residual sum, and a parameter that nothing uses."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.body, self.head = nn.Conv2d(6, 6, 3, padding=1, groups=2), nn.Linear(6, 4)
        self.idle = nn.Parameter(torch.ones(2))

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((x + self.body(x)).mean((2, 3)))


class Branching(Convolutional):
    """Its control flow reads values, so vmap is not possible."""

    def forward(self, x):
        return super().forward(-x if bool(x.sum() > 0) else x)


class Tied(nn.Module):
    """One weight in two layers."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


def by_hand(model, x, y, loss):
    """Means over samples of gradients and of their squares, by plain backward passes."""
    sums, squares = {}, {}
    for i in range(len(x)):
        net = copy.deepcopy(model).eval()
        loss(net(x[i : i + 1]), y[i : i + 1]).backward()
        for n, p in net.named_parameters():
            g = torch.zeros_like(p) if p.grad is None else p.grad
            sums[n] = sums.get(n, 0) + g / len(x)
            squares[n] = squares.get(n, 0) + g.square() / len(x)
    return sums, squares


@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("kind, vectorised", [(Convolutional, True), (Branching, False), (Tied, True)])
@pytest.mark.parametrize("sizes", [(9,), (1, 5, 3)])
def test_they_are_the_gradients_of_single_samples(kind, vectorised, sizes, memory):
    torch.manual_seed(0)
    model = kind().double().train()
    x = torch.randn(9, 4, dtype=torch.float64) if kind is Tied else torch.randn(9, 3, 5, 5, dtype=torch.float64)
    y = torch.arange(9) % 3
    names = [n for n, _ in model.named_parameters()]
    before = copy.deepcopy(model.state_dict())
    gradients = SampleGradients(trace(model, x[:2]), model, names, None, "float32", memory)
    low = 0
    for n in sizes:
        gradients.add(x[low : low + n], y[low : low + n], n)
        low += n
    assert gradients.vectorised is (None if memory else vectorised)  # one sample at a time needs no vmap
    sums, squares = by_hand(model, x, y, F.cross_entropy)
    for n in names:
        assert torch.allclose(gradients.sums[n] / 9, sums[n], rtol=1e-9, atol=1e-12), n
        assert torch.allclose(gradients.squares[n] / 9, squares[n], rtol=1e-9, atol=1e-12), n
    assert model.training and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_that_reads_values_is_taken_sample_by_sample():
    model, x, y = Tied().double(), torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    loss = lambda output, target: F.cross_entropy(output, target) * (2.0 if bool(output.sum() > 0) else 1.0)
    gradients = SampleGradients(trace(model, x[:2]), model, ["c.weight"], loss, "float32")
    gradients.add(x, y, 6)
    _, squares = by_hand(model, x, y, loss)
    assert gradients.vectorised is False and torch.allclose(gradients.squares["c.weight"] / 6, squares["c.weight"])


def test_targets_in_a_list_come_one_by_one():
    model, x, y = Tied().double(), torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    loss = lambda output, target: F.cross_entropy(output, torch.stack([t["label"] for t in target]))
    gradients = SampleGradients(trace(model, x[:2]), model, ["c.weight"], loss, "float32")
    gradients.add(x, [{"label": label} for label in y], 6)
    _, squares = by_hand(model, x, y, F.cross_entropy)
    assert torch.allclose(gradients.squares["c.weight"] / 6, squares["c.weight"])


def test_a_loss_that_is_no_finite_number_is_refused():
    model, x = Tied(), torch.randn(3, 4)
    for loss, says in ((lambda o, t: o, "one number"), (lambda o, t: o.sum() / 0, "finite number for every sample")):
        gradients = SampleGradients(trace(model, x[:2]), model, ["c.weight"], loss, "float32", 1)
        with pytest.raises(BadInput, match=says):
            gradients.add(x, torch.zeros(3), 3)
