"""Means of removed units, folded: what consumers give on average stays what it was."""

import pytest
import torch
from torch import nn

from sartor.errors import BadInput
from sartor.repair import Original, fold_means_
from sartor.seed import seeded
from sartor.structure import trace
from sartor.surgery import cut
from sartor.types import Plan


def images(n=3):
    g = torch.Generator().manual_seed(0)
    return [torch.randn(8, 3, 6, 6, generator=g) + 0.5 for _ in range(n)]


def conv_linear():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1, bias=True))


def conv_norm():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 1, bias=False), nn.BatchNorm2d(5))


def grouped():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1, groups=2), nn.ReLU(), nn.Conv2d(6, 4, 1))


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize("make", [conv_linear, conv_norm, linear])
def test_the_mean_output_is_that_of_the_original(make):
    with seeded(1):
        model = make().eval()
    graph = trace(model, images()[0])
    group = next(iter(graph.groups.values()))
    plan = Plan({group.name: tuple(range(0, group.units, 2))}, "test", graph.fingerprint)
    plain, folded = cut(model, graph, plan), cut(model, graph, plan)
    assert fold_means_(folded, Original(model, graph, plan), images(), samples=24) == 1
    with torch.no_grad():
        want, without, got = (
            torch.cat([m(x) for x in images()]).transpose(0, 1).flatten(1).mean(1) for m in (model, plain, folded)
        )
    assert torch.allclose(got, want, atol=1e-5)
    assert not torch.allclose(without, want, atol=1e-2)


def test_grouped_consumers_take_the_means_of_their_own_inputs():
    with seeded(2):
        model = grouped().eval()
    graph = trace(model, images()[0])
    inner = next(n for n, g in graph.groups.items() if g.units == 4)  # channels inside each of the two groups
    plan = Plan({inner: (0, 2)}, "test", graph.fingerprint)
    folded = cut(model, graph, plan)
    assert fold_means_(folded, Original(model, graph, plan), images(), samples=24) == 1
    with torch.no_grad():
        want = torch.cat([model[:3](x) for x in images()]).mean((0, 2, 3))
        got = torch.cat([folded[:3](x) for x in images()]).mean((0, 2, 3))
    assert torch.allclose(got, want, atol=1e-5)


def test_the_original_and_its_modes_stay():
    model = conv_norm().train()
    graph = trace(model, images()[0])
    (name, *_) = graph.groups
    plan = Plan({name: (0, 1)}, "test", graph.fingerprint)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    fold_means_(cut(model, graph, plan), Original(model, graph, plan), images(), samples=8)
    assert model.training and all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_no_inputs_is_said():
    model = linear()
    graph = trace(model, images()[0])
    plan = Plan({next(iter(graph.groups)): (0, 1)}, "test", graph.fingerprint)
    with pytest.raises(BadInput, match="calibration"):
        fold_means_(cut(model, graph, plan), Original(model, graph, plan), [], samples=8)
