"""Which units are compared with each other: those of a layer, wherever the groups of its filters lie."""

import pytest
import torch
from tests.structure.test_fibres import TwoHeads
from torch import nn

from sartor.importance import score
from sartor.importance.criteria.fpgm import fpgm
from sartor.importance.layers import layer_rows, places
from sartor.importance.pairs import paired
from sartor.structure import trace
from sartor.testing.zoo import ZOO
from sartor.types import Calibration, Criterion, Scaling


def traced(name):
    case = ZOO[name].value
    model, example = case.build(), case.example()
    return model, trace(model, example), example


def test_filters_of_one_layer_in_several_groups_are_compared_with_each_other():
    """A shortcut padded with zero channels divides the filters of a layer into three groups."""
    model, graph, _ = traced("cifar-resnet-pad")
    divided = [n for n, g in graph.groups.items() for m in g.members if m.role == "out" and _share(graph, n, m) < 1]
    assert divided
    plain = Scaling(reduce="producer", normalise="none")
    by_layer, by_group = (
        score(graph, model, "fpgm", scaling=Scaling(reduce="producer", normalise="none", among=among))
        for among in ("layer", "group")
    )
    assert all(torch.equal(s, by_layer[n]) for n, s in score(graph, model, "fpgm", scaling=plain).items())
    weights = dict(model.named_parameters())
    for name in dict.fromkeys(divided):
        writers = [m for m in graph.groups[name].members if m.role == "out" and weights[m.tensor].dim() > 1]
        whole = sum(
            fpgm(weights[m.tensor].detach().double().flatten(1))[graph.positions(name, m)[:, 0]] for m in writers
        )
        alone = sum(fpgm(graph.unit_view(name, m, weights[m.tensor].detach()).double()) for m in writers)
        assert torch.allclose(by_layer[name], whole) and torch.allclose(by_group[name], alone)
        assert (by_layer[name] > by_group[name]).all()


def _share(graph, group, member):
    where = graph.positions(group, member)
    return where.numel() / graph.tensors[member.tensor].shape[member.dim]


def test_what_a_concatenation_joins_are_several_layers():
    _, graph, _ = traced("densenet")
    for place in places(graph, "read", "layer"):
        assert len(place.takes) == 1 and len(place.site.positions) == graph.groups[place.takes[0][0]].units


def test_a_place_is_shown_once_for_all_groups_of_its_layer():
    _, graph, _ = traced("cifar-resnet-pad")
    shared = [p for p in places(graph, "read", "layer") if len(p.takes) > 1]
    assert shared
    for place in shared:
        rows = torch.cat([rows for *_, rows in place.takes])
        assert rows.sort().values.tolist() == list(range(len(place.site.positions)))  # every unit once
        for name, i, rows in place.takes:
            assert torch.equal(place.site.positions[rows], graph.sites(name)[i].positions)
    alone = places(graph, "read", "group")
    assert len(alone) == sum(len(graph.sites(n)) for n in graph.groups)


def test_filters_that_cannot_be_cut_belong_to_the_layer():
    """Half of a layer's outputs are the network's own."""

    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(4, 12), nn.Linear(6, 3)

        def forward(self, x):
            kept, out = self.up(x).chunk(2, 1)
            return self.down(torch.relu(kept)), out

    torch.manual_seed(0)
    model = Half()
    graph = trace(model, torch.randn(2, 4))
    (name,) = (n for n, g in graph.groups.items() if g.units == 6)
    got = score(graph, model, "fpgm", scaling=Scaling(reduce="producer", normalise="none"))[name]
    assert torch.allclose(got, fpgm(model.up.weight.detach().double())[:6])


def test_units_of_several_filters_are_compared_with_units_of_as_many():
    _, graph, _ = traced("plain-attention")
    for name, group in graph.groups.items():
        for member in group.members:
            rows = layer_rows(graph, name, member)
            own = graph.positions(name, member)
            assert torch.equal(rows[: group.units], own) and rows.shape[1] == own.shape[1]
            assert rows.unique().numel() == rows.numel()


def test_pairs_of_an_outer_and_an_inner_unit_are_compared_among_themselves():
    model, example = TwoHeads(), torch.randn(2, 5, 6)
    graph = trace(model, example)
    assert graph.fibres
    pairs = paired(graph, graph.fibres)
    data = Calibration([(example, torch.zeros(len(example)))])
    for criterion in ("fpgm", "chip", "lamp"):
        for name, s in score(pairs, model, criterion, calibration=data).items():
            assert s.shape == (pairs.groups[name].units,)


@pytest.mark.parametrize("criterion", ["chip", "hrel"])
def test_a_recipe_says_among_which_units(criterion):
    model, graph, example = traced("cifar-resnet-pad")
    x = torch.randn(8, *example.shape[1:], generator=torch.Generator().manual_seed(0))
    data = Calibration([(x, torch.arange(8) % 2)])
    by_layer, by_group = (
        score(graph, model, criterion, calibration=data, scaling=Criterion(criterion, among=among).scaling)
        for among in ("layer", "group")
    )
    differ = {n for n in graph.groups if not torch.allclose(by_layer[n], by_group[n])}
    divided = {n for p in places(graph, "read", "layer") if len(p.takes) > 1 for n, *_ in p.takes}
    assert differ and differ <= divided
