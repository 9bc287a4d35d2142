"""Claims over every registered criterion, on networks of several kinds: residual, dense, attention, depthwise, 1-D."""

import copy
import zlib

import pytest
import torch

from sartor.importance import CRITERIA, scores
from sartor.structure import trace
from sartor.structure.example import first_tensor, map_tensors, with_batch
from sartor.structure.model_copy import named_tensors
from sartor.testing.zoo import ZOO
from sartor.types import SILENT, Calibration, Scaling

NETS = {  # network -> a group whose units can be renumbered
    "cifar-resnet-pad": "1.conv1",
    "mobilenet-v2": "1.body.0.0",
    "multi-head-attention": "embed",
    "conv1d": "0",
    "layer-norm-mlp": "ups.0",
    "densenet": "1.conv",
}
NAMES = list(CRITERIA)
DRAWN = [e.name for e in CRITERIA.entries() if not e.traits["equivariant"]]
HUNGRY = {"grad", "mean_grad", "fisher", "activation", "moments", "contribution", "gap"}
APART = [e.name for e in CRITERIA.entries() if HUNGRY & set(e.traits["needs"])]  # all that read data but Gram matrices
N = 6


def options_of(batches):
    """Of `scores`: this data, places summed as they are, no notes."""
    calibration = Calibration(batches, loss=loss, passes=40)
    return {"calibration": calibration, "scaling": Scaling(normalise="none"), "listener": SILENT}


def drawn(name):
    """A network of the zoo, its graph, and samples that differ, with labels."""
    case = ZOO[name].value
    model, example = case.build(), case.example()
    g = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    draw = lambda t: torch.randn(t.shape, generator=g)
    x = map_tensors(draw, with_batch(example, N))
    return model, trace(model, example), x, torch.tensor([0, 1, 2, 0, 1, 2])


def loss(output, targets):
    """Cross entropy of the mean over everything but samples and the last dimension."""
    y = first_tensor(output)
    return torch.nn.functional.cross_entropy(y.reshape(len(y), -1, y.shape[-1]).mean(1), targets)


def cut_up(x, y, sizes):
    """The samples as batches of these sizes."""
    return [
        (map_tensors(lambda t: t[lo : lo + n], x), y[lo : lo + n])  # noqa: B023
        for lo, n in zip([sum(sizes[:i]) for i in range(len(sizes))], sizes)
    ]


def same(a, b, what, tolerance=1e-3):
    """Scores of all groups agree, relative to the largest of a group."""
    for group in a:
        scale = float(a[group].abs().max()) or 1.0
        assert torch.allclose(a[group], b[group], rtol=tolerance, atol=tolerance * scale), (what, group)


@pytest.mark.parametrize("net", NETS)
def test_every_criterion_scores_every_unit_in_one_pass(net):
    model, graph, x, y = drawn(net)
    names = [
        n for n in NAMES if n != "bn-scale" or any(m.role == "norm" for g in graph.groups.values() for m in g.members)
    ]
    found = scores(
        graph, model, names, calibration=Calibration(cut_up(x, y, [6]), loss=loss, passes=40), listener=SILENT
    )
    assert list(found) == names
    for name, by_group in found.items():
        assert by_group.keys() == graph.groups.keys()
        for group, s in by_group.items():
            assert s.shape == (graph.groups[group].units,) and s.dtype == torch.float64, (name, group)
            assert torch.isfinite(s).all(), (name, group)


@pytest.mark.parametrize("net", NETS)
def test_renumbering_units_renumbers_their_scores_and_no_others(net):
    model, graph, x, y = drawn(net)
    group = NETS[net]
    units = graph.groups[group].units
    order = torch.randperm(units, generator=torch.Generator().manual_seed(1))
    other = copy.deepcopy(model)
    by_name = {n: t for *_, n, t in named_tensors(other)}
    done = set()
    for member in graph.groups[group].members:
        t = by_name[member.tensor]
        if (id(t), member.dim) not in done:
            done.add((id(t), member.dim))
            index, where = torch.arange(t.shape[member.dim]), graph.positions(group, member)
            index[where] = where[order]
            t.data = t.data.index_select(member.dim, index)
    with torch.no_grad():
        assert torch.allclose(first_tensor(other(x)), first_tensor(model(x)), rtol=1e-4, atol=1e-5)
    names = [n for n in NAMES if n not in DRAWN and n != "bn-scale"]
    options = options_of(cut_up(x, y, [6]))
    before, after = scores(graph, model, names, **options), scores(graph, other, names, **options)
    for name in names:
        want = {g: s[order] if g == group else s for g, s in before[name].items()}
        same(want, after[name], name, 1e-2 if name in ("chex-residual", "hrank") else 1e-3)


@pytest.mark.parametrize("net", NETS)
def test_how_samples_are_split_into_batches_does_not_matter(net):
    model, graph, x, y = drawn(net)
    whole = scores(graph, model, APART, **options_of(cut_up(x, y, [6])))
    split = scores(graph, model, APART, **options_of(cut_up(x, y, [1, 3, 2])))
    assert {"taylor", "fisher", "flap", "hrel", "chip"} <= set(APART)
    for name in APART:
        same(whole[name], split[name], name)


@pytest.mark.parametrize("net", ["cifar-resnet-pad", "multi-head-attention"])
def test_a_few_samples_at_a_time_give_the_same_scores(net, monkeypatch):
    model, graph, x, y = drawn(net)
    options = options_of(cut_up(x, y, [6]))
    whole = scores(graph, model, APART, **options)
    monkeypatch.setattr("sartor.importance.calibration_pass.CHUNK", 1)
    for name, by_group in scores(graph, model, APART, **options).items():
        same(whole[name], by_group, name)
