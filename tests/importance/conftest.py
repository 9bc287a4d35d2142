"""A small network, its graph, and calibration batches."""

import pytest
import torch
from torch import nn

from sartor.structure import trace


class Residual(nn.Module):
    """Convolutions with and without norms, a residual stream, a hidden linear layer behind dropout."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.inner = nn.Conv2d(6, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.outer = nn.Conv2d(8, 6, 3, padding=1)
        self.hidden = nn.Linear(6, 5)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(5, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = x + self.outer(torch.relu(self.norm(self.inner(x))))
        return self.head(self.drop(torch.relu(self.hidden(x.mean((2, 3))))))


@pytest.fixture
def model():
    """With norm scales and statistics that are not the initial ones; in training mode, as users leave it."""
    torch.manual_seed(0)
    net = Residual()
    with torch.no_grad():
        net.norm.weight.uniform_(0.5, 1.5)
        net.norm.bias.normal_()
        net.norm.running_mean.normal_()
        net.norm.running_var.uniform_(0.5, 2.0)
    return net.train()


@pytest.fixture
def graph(model):
    """Of the model, traced at another batch size than the calibration batches have."""
    return trace(model, torch.randn(2, 3, 6, 6))


@pytest.fixture
def batches():
    """Three (inputs, class indices) pairs of four samples."""
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(4, 3, 6, 6, generator=g), torch.randint(0, 4, (4,), generator=g)) for _ in range(3)]
