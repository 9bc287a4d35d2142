"""Layers refitted by least squares: exact where the kept units carry everything, best where they do not."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.zoo_graphs import understood
from torch import nn

from sartor.errors import BadInput, CannotTrace
from sartor.repair import Original, RidgeOptions, refit_consumers_
from sartor.repair.gap import output_gap, outputs
from sartor.seed import seeded
from sartor.structure import trace
from sartor.structure.example import map_tensors, tensors, with_batch
from sartor.surgery import cut
from sartor.testing.plans import halves
from sartor.testing.zoo import ZOO
from sartor.types import Plan


def images(n=6, channels=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(16, channels, 6, 6, generator=g) + 0.3 for _ in range(n)]


class Residual(nn.Module):
    """Two blocks that add to one stream, batch norms behind every convolution."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a = nn.ModuleList(nn.Conv2d(6, 8, 3, padding=1, bias=False) for _ in range(2))
        self.n = nn.ModuleList(nn.BatchNorm2d(8) for _ in range(2))
        self.b = nn.ModuleList(nn.Conv2d(8, 6, 3, padding=1, bias=False) for _ in range(2))
        self.m = nn.ModuleList(nn.BatchNorm2d(6) for _ in range(2))
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for a, n, b, m in zip(self.a, self.n, self.b, self.m):
            x = F.relu(m(b(F.relu(n(a(x))))) + x)
        return self.head(x.mean((2, 3)))


def shaken(model):
    """Batch norms as training leaves them: no two channels alike."""
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            for t in (m.weight, m.bias, m.running_mean, m.running_var):
                if t is not None:
                    nn.init.uniform_(t, 0.5, 1.5)
    return model.eval()


NETWORKS = {
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 16), nn.ReLU(), nn.Linear(16, 4)),
    "conv": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3)),
    "norm": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3, bias=False), nn.BatchNorm2d(5)),
    "plain norm": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3), nn.BatchNorm2d(5, affine=False)
    ),
    "depthwise": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 5, 1)
    ),
    "residual": Residual,
}


def halved(model, twins=True):
    """The graph and a plan that keeps every other unit; with twins, each unit cut has an equal one that stays."""
    graph = trace(model, images()[0])
    inner = {n: g for n, g in graph.groups.items() if g.units in (8, 16)}
    if twins:
        with torch.no_grad():
            for g in inner.values():
                for m in g.members:
                    if m.role != "in":
                        t = model.state_dict()[m.tensor].movedim(m.dim, 0)
                        t[1::2] = t[::2]
    plan = Plan({n: tuple(range(0, g.units, 2)) for n, g in inner.items()}, "test", graph.fingerprint)
    return graph, plan


def refitted(model, graph, plan, batches, **options):
    smaller = cut(model, graph, plan)
    refit_consumers_(smaller, Original(model, graph, plan), batches, options=RidgeOptions(**options))
    return smaller


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rounds", [0, 2])
def test_what_the_kept_units_carry_is_recovered_on_inputs_never_seen(name, rounds):
    with seeded(3):
        model = shaken(NETWORKS[name]())
    graph, plan = halved(model)
    new = images(seed=7)
    wanted = outputs(model, new)
    before = output_gap(cut(model, graph, plan), new, wanted)
    after = output_gap(refitted(model, graph, plan, images(), strength=1e-7, relu_rounds=rounds), new, wanted)
    assert before > 1e-3 and after < 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_come_closer_where_something_is_really_lost(name):
    with seeded(3):
        model = shaken(NETWORKS[name]())
    graph, plan = halved(model, twins=False)
    new = images(seed=7)
    wanted = outputs(model, new)
    before = output_gap(cut(model, graph, plan), new, wanted)
    assert output_gap(refitted(model, graph, plan, images(20)), new, wanted) < 0.7 * before


def test_the_last_layer_is_the_least_squares_solution():
    with seeded(1):
        model = NETWORKS["linear"]().eval()
    graph, plan = halved(model, twins=False)
    x = torch.cat(images())
    smaller = refitted(model, graph, plan, images(), strength=1e-9, relu_rounds=0)
    with torch.no_grad():
        hidden = smaller[:3](x).double()
        a = torch.cat([hidden, torch.ones(len(x), 1).double()], 1)
        best = torch.linalg.lstsq(a, model(x).double()).solution
        got = torch.cat([smaller[3].weight.T, smaller[3].bias[None]]).double()
    assert torch.allclose(got, best, atol=1e-4)


def test_a_strong_pull_leaves_the_weights_as_they_are():
    with seeded(1):
        model = NETWORKS["linear"]().eval()
    graph, plan = halved(model, twins=False)
    smaller, same = cut(model, graph, plan), refitted(model, graph, plan, images(), strength=1e9)
    assert torch.allclose(same[3].weight, smaller[3].weight, atol=1e-6)


def test_with_the_relu_in_view_the_error_behind_it_is_smaller():
    with seeded(2):
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU()).eval()
        with torch.no_grad():
            model[2].bias -= 0.5
    graph, plan = halved(model, twins=False)
    wanted = outputs(model, images())
    plain, relu = (output_gap(refitted(model, graph, plan, images(), relu_rounds=n), images(), wanted) for n in (0, 5))
    assert relu < 0.95 * plain


def test_a_layer_makes_up_for_the_stream_it_adds_to():
    with seeded(3):
        model = shaken(Residual())
    graph, plan = halved(model, twins=False)
    plan = Plan({n: (0, 3) for n in plan.keep}, "test", graph.fingerprint)
    wanted = outputs(model, images())
    alone, together = (
        output_gap(refitted(model, graph, plan, images(), compensate=c), images(), wanted) for c in (False, True)
    )
    assert together < alone


def test_a_channel_the_norm_has_switched_off_can_come_back():
    with seeded(3):
        model = shaken(NETWORKS["norm"]())
        model[3].weight.data[1] = 0.0
    graph, plan = halved(model)
    new = images(seed=7)
    smaller = refitted(model, graph, plan, images(), strength=1e-7)
    assert output_gap(smaller, new, outputs(model, new)) < 1e-6
    assert all(bool(torch.isfinite(t).all()) for t in smaller.state_dict().values())


def test_nothing_to_do_changes_nothing():
    with seeded(1):
        model = shaken(Residual())
    graph = trace(model, images()[0])
    same = copy.deepcopy(model)
    assert refit_consumers_(same, Original(model, graph, Plan({}, "test", graph.fingerprint)), images()) == 0
    assert all(torch.equal(a, b) for a, b in zip(same.state_dict().values(), model.state_dict().values()))


@pytest.mark.parametrize("name", sorted(n for n in ZOO if "hard" not in ZOO[n].value.marks))
def test_every_zoo_network_is_refitted_or_says_why_not(name):
    model, example, graph = understood(name)
    plan = halves(graph)
    if not plan.keep:
        return
    before = {n: t.clone() for n, t in model.state_dict().items()}
    smaller = cut(model, graph, plan)
    batches = [example, map_tensors(lambda t: t.flip(0) if t.dim() else t, example)]
    try:
        refit_consumers_(smaller, Original(model, graph, plan), batches)
    except CannotTrace as e:
        assert "depends on tensor values" in str(e) or "own tensors" in str(e)
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())
    for out in outputs(smaller, [with_batch(example, 2)]):
        assert all(bool(torch.isfinite(t).all()) for t in tensors(out) if t.is_floating_point())


def test_missing_and_broken_inputs_are_named():
    with seeded(1):
        model = NETWORKS["conv"]().eval()
    graph, plan = halved(model, twins=False)
    with pytest.raises(BadInput, match="got none"):
        refit_consumers_(cut(model, graph, plan), Original(model, graph, plan), [])
    with pytest.raises(BadInput, match="finite activations"):
        refit_consumers_(
            cut(model, graph, plan), Original(model, graph, plan), [torch.full((4, 3, 6, 6), float("nan"))]
        )
    with pytest.raises(BadInput, match="strength > 0"):
        RidgeOptions(strength=0.0)
