"""The weights that read a unit, in units of what the batch norm behind them gives."""

import pytest
import torch
from torch import nn

from sartor.activations.readers import reader_weight
from sartor.importance import score
from sartor.seed import seeded
from sartor.structure import trace
from sartor.testing.zoo import ZOO
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


class Heads(nn.Module):
    """Values of three heads, of which one emits a constant that is another in every dimension."""

    def __init__(self):
        super().__init__()
        self.value, self.proj = nn.Linear(6, 12), nn.Linear(12, 5)
        with torch.no_grad():
            self.value.weight[4:8] = 0.0
            self.value.bias[4:8] = torch.tensor([5.0, -3.0, 0.5, 8.0])

    def forward(self, x):
        v = self.value(x).unflatten(-1, (3, 4)).transpose(1, 2)
        return self.proj(v.transpose(1, 2).flatten(2)).mean(1)


@pytest.mark.parametrize("sizes", [(1,) * 9, (9,), (4, 4, 1)])
def test_a_head_that_emits_constants_scores_nothing_whatever_the_batches(sizes):
    torch.manual_seed(0)
    model, x = Heads().double(), torch.randn(9, 7, 6, dtype=torch.float64)
    graph = trace(model, x[:2])
    (name,) = (n for n, g in graph.groups.items() if g.units == 3)
    batches = list(zip(x.split(sizes), torch.zeros(9, dtype=torch.int64).split(sizes)))
    flap = score(graph, model, "flap", calibration=Calibration(batches), scaling=PLAIN)[name]
    assert flap[1] < 1e-12 * flap[0] and flap[0] > 0 and flap[2] > 0
    with torch.no_grad():
        v = model.value(x).flatten(0, 1)
        squares = model.proj.weight.square().sum(0)
    want = torch.stack([(v.var(0, unbiased=False) * squares)[4 * h : 4 * h + 4].sum() for h in range(3)])
    assert torch.allclose(flap, want, rtol=1e-9, atol=1e-12)
    wanda = score(graph, model, "wanda", calibration=Calibration(batches), scaling=PLAIN)[name]
    size = v.square().mean(0).sqrt() * model.proj.weight.detach().abs().sum(0)
    assert torch.allclose(wanda, torch.stack([size[4 * h : 4 * h + 4].sum() for h in range(3)]), rtol=1e-9)


@pytest.mark.parametrize("case", ["grouped", "resnext", "flatten-head", "depthwise-multiplier"])
def test_every_column_is_read_by_its_own_weights(case):
    """What a layer computes from one input column alone is that column times its weights."""
    net, example = ZOO[case].value.build(), ZOO[case].value.example()
    graph = trace(net, example)
    tensors = dict(net.state_dict())
    checked = 0
    for name in graph.groups:
        for site in graph.sites(name):
            op = graph.ops[site.op]
            weight = reader_weight(graph, name, site, tensors)
            assert weight.shape[:2] == site.positions.shape
            if op.name not in ("linear", "conv2d"):
                continue
            w = next(tensors[v.name] for v in op.inputs[1:] if v.name is not None and v.ndim > 1).double()
            groups = int(op.arg("groups", 1)) if op.name == "conv2d" else 1
            for u, k in ((0, 0), (len(site.positions) - 1, site.positions.shape[1] - 1)):
                column = int(site.positions[u, k])
                x = torch.zeros(1, w.shape[1] * groups, *[1] * (w.dim() - 2), dtype=torch.float64)
                x[0, column] = 1.0
                if op.name == "linear":
                    want = torch.nn.functional.linear(x, w).square().sum()
                else:
                    want = torch.nn.functional.conv2d(x, w, padding=w.shape[-1] - 1, groups=groups).square().sum()
                if float(weight[u, k].double().square().sum() / want) != pytest.approx(1.0, rel=1e-5):
                    gained = [o for o in graph.ops if o.kind == "batch_norm" and any(v is op.out for v in o.inputs)]
                    assert gained, (case, name, op.where)  # scaled by the batch norm behind
                checked += 1
    assert checked
