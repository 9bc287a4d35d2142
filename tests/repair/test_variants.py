"""Repairs of others on the same cut: what their papers say they do, and their place among the steps of a recipe."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.zoo_graphs import understood
from torch import Tensor, nn

from sartor.errors import BadInput
from sartor.recipes import changed, find_recipe
from sartor.repair import Original, refit_consumers_
from sartor.repair.compensation import compensate_
from sartor.repair.folding import fold_units_
from sartor.repair.gap import output_gap, outputs
from sartor.repair.repair_step import heal
from sartor.seed import seeded
from sartor.structure import trace
from sartor.surgery import cut
from sartor.testing.plans import halves
from sartor.testing.zoo import ZOO
from sartor.types import Calibration, Plan, Ridge


def inputs(n: int = 6, seed: int = 0) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(16, 3, 6, 6, generator=g) + 0.3 for _ in range(n)]


def network() -> nn.Module:
    with seeded(2):
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1, groups=2),
            nn.ReLU(), nn.Conv2d(12, 6, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
        ).eval()  # fmt: skip
        for t in (net[1].weight, net[1].bias, net[1].running_mean, net[1].running_var):
            nn.init.uniform_(t, 0.5, 1.5)
    return net


def twins(model: nn.Module):
    """Every unit of a hidden layer has an equal one, and one of each pair is cut."""
    graph = trace(model, inputs()[0][:1])
    keep = {}
    with torch.no_grad():
        for name, g in graph.groups.items():
            if g.units in (8, 12) or g.units == 6:
                for m in g.members:
                    if m.role != "in":
                        t = dict(model.state_dict())[m.tensor].movedim(m.dim, 0)
                        where = graph.positions(name, m)
                        t[where[1::2].flatten()] = t[where[::2].flatten()]
                keep[name] = tuple(range(0, g.units, 2))
    return graph, Plan(keep, "test", graph.fingerprint)


def small() -> tuple[nn.Module, Original, nn.Module]:
    """(network, the cut, cut network) of two convolutions and a head."""
    with seeded(4):
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
        ).eval()
    graph, plan = twins(model)
    return model, Original(model, graph, plan), cut(model, graph, plan)


@pytest.mark.parametrize("repair", ["grail", "folding"])
def test_units_with_an_equal_one_that_stays_are_made_up_for(repair: str) -> None:
    model, original, smaller = small()
    before = output_gap(smaller, inputs(seed=7), outputs(model, inputs(seed=7)))
    done = compensate_(smaller, original, inputs()) if repair == "grail" else fold_units_(smaller, original)
    assert done == 2
    after = output_gap(smaller, inputs(seed=7), outputs(model, inputs(seed=7)))
    assert after < (1e-6 if repair == "folding" else 0.02 * before) < before  # a ridge shrinks what hardly occurs


def test_grail_is_the_weight_times_the_ridge_regression_from_kept_to_all_channels() -> None:
    with seeded(5):
        model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
        x = [torch.randn(64, 6) for _ in range(4)]
    graph = trace(model, x[0][:1])
    name = next(n for n, g in graph.groups.items() if g.units == 8)
    kept = (0, 3, 4)
    plan = Plan({name: kept}, "test", graph.fingerprint)
    smaller = cut(model, graph, plan)
    compensate_(smaller, Original(model, graph, plan), x)
    h = F.relu(model[0](torch.cat(x))).double().detach()
    gram = h.T @ h / len(h)
    among = gram[list(kept)][:, list(kept)]
    map_ = gram[:, list(kept)] @ torch.linalg.inv(among + 1e-3 * among.diagonal().mean() * torch.eye(3).double())
    assert torch.allclose(smaller[2].weight.double(), model[2].weight.double() @ map_, rtol=1e-4, atol=1e-5)
    assert torch.equal(smaller[2].bias, model[2].bias) and torch.equal(smaller[0].weight, model[0].weight[list(kept)])


def test_folding_averages_what_gives_a_unit_and_sums_what_reads_it() -> None:
    model = nn.Sequential(nn.Linear(1, 4, bias=False), nn.Linear(4, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0], [1.0], [10.0], [9.0]]))
    graph = trace(model, torch.randn(1, 1))
    name = next(iter(graph.groups))
    plan = Plan({name: (0, 2)}, "test", graph.fingerprint)
    smaller = cut(model, graph, plan)
    assert fold_units_(smaller, Original(model, graph, plan)) == 1
    assert smaller[0].weight.flatten().tolist() == [0.5, 9.5]
    reads = model[1].weight
    assert torch.allclose(smaller[1].weight, torch.stack([reads[:, 0] + reads[:, 1], reads[:, 2] + reads[:, 3]], 1))


@pytest.mark.parametrize("name", list(ZOO))
@pytest.mark.parametrize("variant", ["grail", "folding"])
def test_every_network_is_repaired_in_its_own_shapes(name: str, variant: str) -> None:
    model, example, graph = understood(name)
    plan = halves(graph)
    if not plan.keep:
        pytest.skip("nothing to cut")
    smaller = cut(model, graph, plan)
    shapes = {n: t.shape for n, t in smaller.state_dict().items()}
    original = Original(model, graph, plan)
    compensate_(smaller, original, [example]) if variant == "grail" else fold_units_(smaller, original)
    assert {n: t.shape for n, t in smaller.state_dict().items()} == shapes
    assert all(bool(torch.isfinite(t).all()) for t in smaller.state_dict().values() if t.is_floating_point())


def test_the_refit_comes_closer_than_its_peers_on_the_same_cut() -> None:
    model = network()
    graph = trace(model, inputs()[0][:1])
    plan = halves(graph)
    original, new = Original(model, graph, plan), inputs(seed=7)
    gaps = {}
    for name in ("refit", "grail", "folding"):
        smaller = cut(model, graph, plan)
        if name == "refit":
            refit_consumers_(smaller, original, inputs())
        elif name == "grail":
            compensate_(smaller, original, inputs())
        else:
            fold_units_(smaller, original)
        gaps[name] = output_gap(smaller, new, outputs(model, new))
    assert gaps["refit"] < gaps["grail"] and gaps["refit"] < gaps["folding"]


def test_variants_are_chosen_by_name_and_kept_only_if_they_help() -> None:
    _, original, smaller = small()
    calibration = Calibration([(x, None) for x in inputs()])
    by_hand = copy.deepcopy(smaller)
    compensate_(by_hand, original, inputs()[:-1])
    healed, facts = heal(smaller, original, (Ridge(variant="grail"),), calibration)
    assert facts["refit"]["kept"] and facts["refit"]["after"] < facts["refit"]["before"]
    assert all(torch.equal(t, by_hand.state_dict()[n]) for n, t in healed.state_dict().items())
    recipe = changed(find_recipe("reconstruction"), {"heal.ridge.variant": "folding", "heal.ridge.logits": False})
    assert recipe.heal[0] == Ridge(variant="folding", logits=False)
    with pytest.raises(BadInput, match="variant"):
        Ridge(variant="crail")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="expected calibration inputs"):
        compensate_(smaller, original, [])
