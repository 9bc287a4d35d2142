"""The weights that read a unit, in units of what the batch norm behind them gives."""

import torch
from torch import nn

from sartor.activations.readers import reader_weight
from sartor.importance import score
from sartor.seed import seeded
from sartor.structure import trace
from sartor.types import Calibration, Scaling

PLAIN = Scaling(normalise="none")


def net():
    with seeded(0):
        model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, bias=False), nn.BatchNorm2d(4))
        model[3].running_var.uniform_(0.5, 2.0)
        model[3].weight.data.uniform_(-1.0, 1.0)
    return model.eval()


def test_reader_weights_are_scaled_by_the_norm_behind():
    model, x = net(), torch.randn(4, 3, 8, 8)
    graph = trace(model, x)
    (name,) = graph.groups
    (site,) = graph.sites(name)
    got = reader_weight(graph, name, site, dict(model.state_dict()))
    gain = (model[3].weight / (model[3].running_var + model[3].eps).sqrt()).abs()
    want = (model[2].weight * gain[:, None, None, None]).transpose(0, 1).reshape(6, 1, -1)
    assert torch.allclose(got, want.detach(), rtol=1e-5)


def test_flap_is_the_energy_that_readers_lose():
    model, x = net(), torch.randn(4, 3, 8, 8)
    graph = trace(model, x)
    (name,) = graph.groups
    (site,) = graph.sites(name)
    s = score(graph, model, "flap", calibration=Calibration([(x, torch.zeros(4))]), scaling=PLAIN)[name]
    with torch.no_grad():
        spread = model[:2](x).transpose(0, 1).flatten(1).double().var(1, unbiased=False)
    weight = reader_weight(graph, name, site, dict(model.state_dict())).double()
    assert torch.allclose(s, spread * weight.square().sum((1, 2)), rtol=1e-5)


def test_a_unit_that_never_changes_scores_nothing():
    model, x = net(), torch.randn(4, 3, 8, 8)
    with torch.no_grad():
        model[0].weight[2] = 0.0
    graph = trace(model, x)
    (name,) = graph.groups
    s = score(graph, model, "flap", calibration=Calibration([(x, torch.zeros(4))]), scaling=PLAIN)[name]
    assert s[2] == 0 and (s > 0).sum() == 5
