"""Scores of a real network: finite, following renumbered units, reduced and normalised as said, model untouched."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sartor.activations.observers import Request, limited, observe
from sartor.activations.sites import unit_samples
from sartor.errors import BadInput, UnknownName
from sartor.importance import CRITERIA, parse_mixture, score, scores
from sartor.importance.reduce import normalised
from sartor.structure import trace
from sartor.types import NORMALISATIONS, REDUCTIONS, SILENT, Calibration, Listener, Scaling

PLAIN = Scaling(normalise="none")

NAMES = list(CRITERIA)
EQUIVARIANT = [e.name for e in CRITERIA.entries() if e.traits["equivariant"]]


@pytest.mark.parametrize("normalise", NORMALISATIONS)
@pytest.mark.parametrize("reduce", REDUCTIONS)
def test_every_group_gets_finite_scores_under_every_option(reduce, normalise, model, graph, batches):
    scaling = Scaling(reduce=reduce, normalise=normalise, per_cost=0.5)
    together = scores(graph, model, NAMES, calibration=Calibration(batches), scaling=scaling, listener=SILENT)
    for name, s in together.items():
        assert s.keys() == graph.groups.keys()
        for group, values in s.items():
            assert values.shape == (graph.groups[group].units,)
            assert values.dtype == torch.float64
            assert torch.isfinite(values).all(), (name, group)


@pytest.mark.parametrize("name", EQUIVARIANT)
def test_renumbering_the_units_of_a_layer_renumbers_its_scores_only(name, model, graph, batches):
    order = torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    other = copy.deepcopy(model)
    for tensor in (other.inner.weight, *other.norm.parameters(), other.norm.running_mean, other.norm.running_var):
        tensor.data = tensor.data[order]
    other.outer.weight.data = other.outer.weight.data[:, order]
    x = batches[0][0]
    assert torch.allclose(model.eval()(x), other.eval()(x), atol=1e-5)
    before = score(graph, model, name, calibration=Calibration(batches), listener=SILENT)
    after = score(graph, other, name, calibration=Calibration(batches), listener=SILENT)
    for group in before:
        expected = before[group][order] if group == "inner" else before[group]
        assert torch.allclose(after[group], expected, rtol=1e-3, atol=1e-6), group


@pytest.mark.parametrize("name", NAMES)
def test_the_model_is_given_back_as_it_was(name, model, graph, batches):
    model.norm.eval()
    model.head.weight.requires_grad_(False)
    model.stem.weight.grad = torch.ones_like(model.stem.weight)
    state = {n: t.clone() for n, t in model.state_dict().items()}
    kept = torch.random.get_rng_state()
    score(graph, model, name, calibration=Calibration(batches), listener=SILENT)
    assert torch.equal(torch.random.get_rng_state(), kept)
    assert all(torch.equal(t, state[n]) for n, t in model.state_dict().items())
    assert model.training and model.drop.training and not model.norm.training
    assert not model.head.weight.requires_grad and model.stem.weight.requires_grad
    assert torch.equal(model.stem.weight.grad, torch.ones_like(model.stem.weight))
    assert all(p.grad is None for n, p in model.named_parameters() if n != "stem.weight")
    assert not model._forward_hooks and not model.inner._forward_pre_hooks


def test_reductions_by_hand(model, graph):
    """The inner units live in their filters, the norm's scale and the next layer's inputs, never in shifts."""
    writer = model.inner.weight.detach().double().flatten(1).norm(dim=1)
    scale = model.norm.weight.detach().double().abs()
    reader = model.outer.weight.detach().double().transpose(0, 1).flatten(1).norm(dim=1)
    rows = torch.stack([writer, scale, reader])
    expected = {"sum": rows.sum(0), "mean": rows.mean(0), "max": rows.amax(0), "producer": writer}
    for reduce, by_hand in expected.items():
        s = score(graph, model, "l2", scaling=Scaling(reduce=reduce, normalise="none"))["inner"]
        assert torch.allclose(s, by_hand), reduce


def test_biases_are_not_read(model, graph):
    before = score(graph, model, "l1", scaling=PLAIN)
    with torch.no_grad():
        for bias in (model.stem.bias, model.norm.bias, model.outer.bias):
            bias.add_(100.0)
    after = score(graph, model, "l1", scaling=PLAIN)
    assert all(torch.equal(before[g], after[g]) for g in before)


def test_taylor_is_the_mean_over_batches_of_squares(model, graph, batches):
    model.eval()
    squares = []
    for x, y in batches:
        net = copy.deepcopy(model)
        F.cross_entropy(net(x), y).backward()
        squares.append((net.inner.weight * net.inner.weight.grad).detach().flatten(1).sum(1) ** 2)
    by_batch = replace(CRITERIA["taylor"].value, batch=4)
    s = score(
        graph, model, by_batch, calibration=Calibration(batches), scaling=Scaling(reduce="producer", normalise="none")
    )["inner"]
    assert torch.allclose(s, torch.stack(squares).mean(0).double(), rtol=1e-3, atol=1e-9)


def test_taylor_is_the_loss_with_the_unit_shrunk_a_little(model, graph, batches):
    """Over what readers take in, sum(grad * w) is the derivative of the loss in the unit's own strength."""
    model.eval()
    x, y = batches[0]
    s = score(
        graph,
        model,
        lambda weight, grad: (weight * grad).sum(1),
        calibration=Calibration(batches[:1]),
        scaling=Scaling(reduce="producer", normalise="none"),
    )
    net, small = copy.deepcopy(model).double(), 1e-6
    with torch.no_grad():
        full = F.cross_entropy(net(x.double()), y)
        net.inner.weight[2] *= 1 - small
        less = F.cross_entropy(net(x.double()), y)
    assert float((full - less) / small) == pytest.approx(float(s["inner"][2]), rel=1e-2, abs=1e-5)


def test_activation_is_what_consumers_read(model, graph, batches):
    model.eval()
    s = score(graph, model, "activation", calibration=Calibration(batches), scaling=PLAIN)["inner"]
    with torch.no_grad():
        x = torch.cat([b[0] for b in batches])
        stem = torch.relu(model.stem(x))
        read = torch.relu(model.norm(model.inner(stem)))
    assert torch.allclose(s, read.flatten(2).norm(dim=2).mean(0).double(), rtol=1e-4)


def test_random_depends_on_the_seed_and_the_group_alone(model, graph):
    once = score(graph, model, "random", calibration=Calibration(seed=3), scaling=PLAIN)
    again = score(graph.only(["inner"]), model, "random", calibration=Calibration(seed=3), scaling=PLAIN)
    assert list(again) == ["inner"] and torch.equal(once["inner"], again["inner"])
    other = score(graph, model, "random", calibration=Calibration(seed=4), scaling=PLAIN)
    assert not torch.equal(once["inner"], other["inner"])


def test_a_group_without_a_norm_is_ranked_by_l2_and_said(model, graph):
    notes = []
    s = score(graph, model, "bn-scale", scaling=PLAIN, listener=Listener(note=notes.append))
    assert torch.allclose(s["inner"], model.norm.weight.detach().abs().double())
    assert len(notes) == 1 and "'bn-scale' does not apply to 2 of 3 groups" in notes[0] and "hidden" in notes[0]
    l2 = score(graph, model, "l2", scaling=PLAIN)
    for group in ("stem", "hidden"):
        assert torch.allclose(s[group], l2[group] / l2[group].mean() * s["inner"].mean())


def test_notes_become_warnings_when_nobody_listens(model, graph):
    with pytest.warns(UserWarning, match="ranked by l2"):
        score(graph, model, "bn-scale")


def test_bn_scale_without_any_norm_is_refused():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    with pytest.raises(BadInput, match="applies to no group"):
        score(trace(net, torch.randn(1, 4)), net, "bn-scale")


def test_the_dearer_of_two_equal_groups_scores_less(model, graph):
    from sartor.cost import unit_macs

    free, dear = (
        score(graph, model, lambda w: torch.ones(len(w)), scaling=Scaling(reduce="mean", per_cost=e))
        for e in (0.0, 1.0)
    )
    assert all(torch.equal(v, torch.ones_like(v)) for v in free.values())
    ranked = sorted(dear, key=lambda g: float(dear[g][0]))
    assert ranked == sorted(dear, key=lambda g: -unit_macs(graph, g))


@pytest.mark.parametrize("how, of", [("mean", torch.mean), ("max", torch.max), ("rank", torch.max)])
def test_normalised_tensors_share_a_scale_so_a_sum_counts_the_places(how, of, model, graph):
    """The residual stream lives in four weights, channels inside the block in two and a norm."""
    for values in score(graph.only(["inner", "hidden"]), model, "fpgm", scaling=Scaling(normalise=how)).values():
        assert float(of(values)) == pytest.approx(1.0)
    assert float(of(normalised(torch.tensor([0.5, 3.0, 3.5]), how))) == pytest.approx(1.0, abs=0.01)
    means = {
        g: float(s.mean())
        for g, s in score(graph, model, "l2", scaling=Scaling(reduce="sum", normalise="mean")).items()
    }
    assert means == pytest.approx({"stem": 4.0, "inner": 3.0, "hidden": 2.0})
    means = {
        g: float(s.mean())
        for g, s in score(graph, model, "l2", scaling=Scaling(reduce="mean", normalise="mean")).items()
    }
    assert means == pytest.approx({"stem": 1.0, "inner": 1.0, "hidden": 1.0})
    assert torch.equal(normalised(torch.zeros(3), how if how != "rank" else "mean"), torch.zeros(3))


def test_samples_cut_the_last_batch(batches):
    taken = list(limited(batches, 6, needed_for="a test"))
    assert [(len(x), len(y), n) for x, y, n in taken] == [(4, 4, 4), (2, 2, 2)]
    assert torch.equal(taken[1][0], batches[1][0][:2]) and torch.equal(taken[1][1], batches[1][1][:2])


def test_gradients_of_a_tied_and_an_unused_parameter(batches):
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    net.register_parameter("idle", nn.Parameter(torch.ones(2)))
    x, y = torch.randn(5, 4), torch.randint(0, 4, (5,))
    found = observe(trace(net, x), net, (x, y), Request(grads=True)).grads
    F.cross_entropy(net(x), y).backward()
    for name, p in net.named_parameters():
        assert torch.allclose(found[name], p.grad if p.grad is not None else torch.zeros_like(p)), name


def test_per_sample_keeps_samples_apart():
    value = torch.arange(2 * 3 * 4).reshape(2, 3, 4).float()
    view = unit_samples(value, 1, torch.tensor([[2], [0]]))
    assert torch.equal(view[0], value[:, 2]) and torch.equal(view[1], value[:, 0])
    twice = unit_samples(value, 2, torch.tensor([[0, 2], [1, 3]]))
    assert twice.shape == (2, 2, 6)
    assert set(twice[0, 1].tolist()) == set(value[1][:, [0, 2]].flatten().tolist())
    assert unit_samples(value, 0, torch.tensor([[0], [1]]), None).shape == (2, 1, 12)


@pytest.mark.parametrize(
    "options, says",
    [
        ({"scaling": {"reduce": "median"}}, "reduce: expected one of"),
        ({"scaling": {"normalise": "sum"}}, "normalise: expected one of"),
        ({"scaling": {"per_cost": -1.0}}, "per_cost: expected"),
        ({"calibration": {"samples": 0}}, "samples: expected"),
        ({"calibration": {"passes": 0}}, "passes: expected"),
        ({"calibration": {"precision": "int8"}}, "precision: expected one of float32, bfloat16; got 'int8'"),
        ({"groups": []}, "groups: expected at least one"),
        ({"criterion": "l1 + "}, r"weights above zero.*got the term ''"),
        ({"criterion": "0*l1"}, r"got the term '0\*l1'"),
        ({"criterion": "2"}, "got the term '2'"),
        ({"criterion": "taylor"}, "'taylor' needs calibration data"),
        ({"criterion": "taylor", "calibration": {"batches": []}}, "are empty"),
        (
            {"criterion": "taylor", "calibration": {"batches": [torch.ones(2, 3, 6, 6)]}},
            r"expected a pair \(inputs, targets\); got Tensor of 2",
        ),
        ({"criterion": "activation"}, "'activation' needs calibration data"),
        ({"criterion": lambda w: w}, r"expected a tensor of shape"),
        ({"criterion": lambda w: w.sum(1) / 0}, r"unit 0 in stem.weight: expected a finite score; got"),
    ],
)
def test_wrong_options_say_what_is_wrong(options, says, model, graph):
    groups, criterion = options.get("groups", graph.groups), options.get("criterion", "l2")
    with pytest.raises(BadInput, match=says):
        calibration, scaling = Calibration(**options.get("calibration", {})), Scaling(**options.get("scaling", {}))
        score(graph.only(groups), model, criterion, calibration=calibration, scaling=scaling)


def test_unknown_groups_and_broken_weights_are_named(model, graph, batches):
    with pytest.raises(UnknownName, match="'inner'"):
        score(graph.only(["iner"]), model)
    model.inner.weight.data[2, 0, 0, 0] = float("nan")
    with pytest.raises(BadInput, match=r"in inner.weight: expected a finite score; got nan"):
        score(graph, model)
    with pytest.raises(BadInput, match="calibration loss: expected a finite number; got nan"):
        score(graph, model, "taylor", calibration=Calibration(batches))


def test_a_loss_that_is_no_number_is_refused(model, graph, batches):
    with pytest.raises(BadInput, match=r"expected one number as a tensor; got \(4, 4\)"):
        score(graph, model, "taylor", calibration=Calibration(batches, loss=lambda output, targets: output))


def test_several_criteria_multiply(model, graph, batches):
    both = score(graph, model, "l1 * fpgm", scaling=Scaling(normalise="max"))
    one, other = (score(graph, model, name, scaling=Scaling(normalise="max")) for name in ("l1", "fpgm"))
    assert all(torch.allclose(both[n], one[n] * other[n]) for n in both)


def test_mixtures_add_and_weigh_normalised_scores(model, graph, batches):
    together = score(
        graph,
        model,
        "0.5*taylor + 2 * l1*fpgm + 1e+1*random",
        calibration=Calibration(batches, seed=3),
        scaling=Scaling(normalise="max"),
    )
    t, l1, fpgm, chance = (
        score(graph, model, n, calibration=Calibration(batches, seed=3), scaling=Scaling(normalise="max"))
        for n in ("taylor", "l1", "fpgm", "random")
    )
    for g in together:
        assert torch.allclose(together[g], 0.5 * t[g] + 2 * l1[g] * fpgm[g] + 10 * chance[g])
    assert [t.names for t in parse_mixture("bn-scale*l1+taylor2")] == [("bn-scale", "l1"), ("taylor2",)]


def test_several_at_once_equal_one_by_one_and_run_the_model_once_a_batch(model, graph, batches):
    names = [n for n in NAMES if not {"gap", "reads", "fisher"} & set(CRITERIA[n].value.needs)] + [
        "flap*fpgm",
        "0.3*taylor + 0.7*chip",
    ]
    alone = {n: score(graph, model, n, calibration=Calibration(batches), listener=SILENT) for n in names}
    forwards, backwards = [], []
    model.stem.register_forward_hook(lambda *_: forwards.append(1))
    given = (batch for batch in batches)  # cannot be rewound
    loss = lambda output, targets: (backwards.append(1), F.cross_entropy(output, targets))[1]
    together = scores(graph, model, names, calibration=Calibration(given, loss=loss), listener=SILENT)
    assert len(forwards) == len(batches) == len(backwards)
    assert list(together) == names
    for name in names:
        for group in graph.groups:
            scale = float(alone[name][group].abs().max())
            assert torch.allclose(together[name][group], alone[name][group], rtol=1e-3, atol=1e-5 * scale), name


def test_no_more_is_run_than_what_is_asked_for(model, graph, batches):
    """Weights need no data, activations no gradients, and a criterion that has seen enough no further batch."""
    runs = []
    model.stem.register_forward_hook(lambda *_: runs.append(torch.is_grad_enabled()))
    score(graph, model, "l2*fpgm", calibration=Calibration(batches))
    assert runs == []
    score(graph, model, "activation", calibration=Calibration(batches))
    assert runs == [False] * 3
    few = CRITERIA["chip"].value
    few = type(few)("few", few.function, few.needs, samples=6)
    runs.clear()
    given = iter(batches)
    got = score(graph, model, few, calibration=Calibration(given))
    assert len(runs) == 2 and next(given) is batches[2]
    want = score(graph, model, "chip", calibration=Calibration(batches, samples=6))
    assert all(torch.allclose(got[g], want[g]) for g in want)


def test_macs_divides_by_what_a_unit_frees(model, graph, batches):
    from sartor.cost import unit_macs

    plain = score(graph, model, "l2 + taylor", calibration=Calibration(batches), scaling=PLAIN)
    freed = {g: unit_macs(graph, g) for g in plain}
    mean = sum(freed.values()) / len(freed)
    for g, s in score(
        graph, model, "l2 + taylor", calibration=Calibration(batches), scaling=Scaling(normalise="macs")
    ).items():
        assert torch.allclose(s, plain[g] * mean / freed[g])


def test_labels_are_class_numbers_of_the_samples(model, graph, batches):
    got = {}

    def spread(activation, labels):
        got.setdefault(len(got), labels)
        return activation.flatten(1).var(1)

    score(graph.only(["inner"]), model, spread, calibration=Calibration(batches))
    assert [v.tolist() for v in got.values()] == [y.tolist() for _, y in batches]
    with pytest.raises(BadInput, match=r"one class number a sample as targets, \(4,\); got torch.float32 \(4, 4\)"):
        score(graph, model, "hrel", calibration=Calibration([(x, torch.zeros(4, 4)) for x, _ in batches]))


def test_written_is_before_the_norm(model, graph, batches):
    model.eval()
    kept = []
    before = lambda activation: (kept.append(activation), activation.flatten(1).mean(1))[1]
    chosen = type(CRITERIA["l1"].value)("before", before, ("activation",), at="written", per_batch=True)
    score(graph.only(["inner"]), model, chosen, calibration=Calibration(batches[:1]))
    with torch.no_grad():
        want = model.inner(torch.relu(model.stem(batches[0][0])))
    assert len(kept) == 1 and torch.allclose(kept[0], want.transpose(0, 1).flatten(2), atol=1e-5)


def test_two_functions_of_one_name_are_refused(model, graph):
    with pytest.raises(BadInput, match="two of them are called '<lambda>'"):
        scores(graph, model, [lambda w: w.amax(1), lambda w: w.amin(1)])
    with pytest.raises(BadInput, match="expected a list"):
        scores(graph, model, "l2")


def test_a_graph_of_some_groups_gives_their_scores_alone(model, graph, batches):
    whole = score(graph, model, "taylor", calibration=Calibration(batches), scaling=PLAIN)
    some = score(graph.only(["inner"]), model, "taylor", calibration=Calibration(batches), scaling=PLAIN)
    assert list(some) == ["inner"] and torch.equal(some["inner"], whole["inner"])
    assert set(graph.groups) == {"stem", "inner", "hidden"}


@pytest.mark.parametrize("sizes", [(1,) * 103, (100, 3), (40, 40, 23)])
def test_the_size_of_batches_changes_no_score(sizes):
    """Also not of those that read mini-batches: they get 100 samples, and the rest at the end."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    x, y = torch.randn(103, 4), torch.arange(103) % 3
    graph = trace(net, x[:2])
    names = [n for n in NAMES if not {"gap", "reads"} & set(CRITERIA[n].value.needs)]
    if sizes[0] == 40:  # gradients of batches cannot be taken apart: of 120 and 23 samples
        names = [n for n in names if "grad" not in CRITERIA[n].value.needs]
    whole, parts = (
        scores(graph, net, names, calibration=Calibration(list(zip(x.split(s), y.split(s)))), listener=SILENT)
        for s in ((100, 3), sizes)
    )
    for name in names:
        for group in graph.groups:
            assert torch.allclose(parts[name][group], whole[name][group], rtol=1e-3, atol=1e-5), (name, group)
