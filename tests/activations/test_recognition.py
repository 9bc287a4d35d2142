"""Operators recognised in forwards that take another path than the recorded one."""

import gc
import weakref

import pytest
import torch
from torch import nn

from sartor.activations.follow import Interventions, Numerics, recognise, replay
from sartor.activations.recognition import Recogniser, recorded
from sartor.activations.sites import unit_dim
from sartor.errors import BadInput
from sartor.importance import score
from sartor.seed import seeded
from sartor.structure import trace
from sartor.structure.example import call
from sartor.testing.zoo import ZOO
from sartor.testing.zoo.case import conv_bn
from sartor.types import SILENT as LISTENER
from sartor.types import Calibration, Scaling

PLAIN = Scaling(normalise="none")
CRITERIA = ("taylor", "fisher", "flap", "wanda", "reconstruction", "chip", "hrank", "random", "activation")


class CachedGrid(nn.Module):
    """A head that adds a grid of positions; it is made at the first picture of a size and kept."""

    def __init__(self):
        super().__init__()
        self.stem, self.deep, self.head = conv_bn(3, 8), conv_bn(8, 6), nn.Conv2d(6, 4, 1)
        self.size = ()
        self.grid = torch.empty(0)

    def forward(self, x):
        x = self.head(self.deep(self.stem(x)))
        if tuple(x.shape[2:]) != self.size:
            rows, columns = (torch.arange(n, device=x.device, dtype=x.dtype) + 0.5 for n in x.shape[2:])
            self.size, self.grid = tuple(x.shape[2:]), torch.stack(torch.meshgrid(rows, columns, indexing="ij"))
        return torch.cat([x[:, :2] + self.grid, x[:, 2:].sigmoid()], 1).flatten(2)


def net(name):
    if name == "cached-grid":
        with seeded(0):
            return CachedGrid().eval(), torch.randn(2, 3, 8, 8)
    case = ZOO[name].value
    return case.build().eval(), case.example()


def names(graph, model, example, **options):
    """What is recognised: operators in the order of their calls."""
    seen = []
    with recognise(graph, model, lambda op, *_: seen.append(op.where), **options) as walk:
        call(model, example)
    return seen, walk


@pytest.mark.parametrize("numerics", [Numerics(), Numerics(gradients=True)])
@pytest.mark.parametrize("name", sorted(ZOO))
def test_on_the_recorded_path_every_operator_is_recognised_once(name, numerics):
    model, example = net(name)
    graph, visited = trace(model, example), []
    with recognise(graph, model, lambda op, *_: visited.append(op.index), numerics=numerics) as walk:
        call(model, example)
    if "value" not in name:
        assert visited == [op.index for op in graph.ops] and set(walk.calls) == {1}


@pytest.mark.parametrize("name", ["resnet", "grouped-query", "optional-mask", "cached-grid"])
def test_so_it_is_in_lower_precision(name):
    model, example = net(name)
    _, walk = names(trace(model, example), model, example, numerics=Numerics(precision="bfloat16"))
    assert set(walk.calls) == {1}


def masked(n=5, length=9, padding=3, *, left=False):
    g = torch.Generator().manual_seed(n)
    mask = torch.ones(n, length, dtype=torch.bool)
    for i in range(1, n):
        mask[i, :padding] = mask[i, length - padding :] = False
        mask[i, -padding:] = left
        mask[i, :padding] = not left
    return torch.randn(n, length, 12, generator=g), mask


@pytest.mark.parametrize("gradients", [False, True])
def test_a_mask_hides_no_operator_that_was_recorded(gradients):
    """Neither the softmax behind the masked scores nor the product of matrices behind it."""
    model, x = net("optional-mask")
    graph = trace(model, x)
    seen, walk = names(graph, model, masked(), numerics=Numerics(gradients=gradients))
    assert seen == [op.where for op in graph.ops] and set(walk.calls) == {1}


def test_operators_that_only_the_example_called_are_not_seen():
    model, _ = net("optional-mask")
    graph = trace(model, masked(2))
    seen, walk = names(graph, model, masked()[0])
    missing = [op.name for op in graph.ops if not walk.calls[op.index]]
    assert {"masked_fill", "bitwise_not"} <= set(missing)
    assert sorted(n.split()[0] for n in seen if n.split()[0] in ("linear", "softmax", "matmul")) == sorted(
        op.name for op in graph.ops if op.name in ("linear", "softmax", "matmul")
    )


@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
def test_a_loop_may_run_more_or_less_often(rounds):
    model, (x, _) = net("loop-by-input")
    graph = trace(model, (x, torch.tensor([2])))
    seen, _ = names(graph, model, (x, torch.tensor([rounds])))
    for layer in ("wide", "narrow"):
        assert seen.count(f"linear in {layer}") == rounds
    assert seen.count("linear in out") == seen.count("linear in stem") == 1


def test_what_a_module_keeps_between_forwards_makes_no_difference():
    model, x = net("cached-grid")
    other = torch.randn(3, 3, 12, 10)
    with torch.no_grad():
        model(x), model(other)
    for used in (x, other):
        graph = trace(model, x)
        with torch.no_grad():
            model(used)
        seen, _ = names(graph, model, x)
        assert {op.where for op in graph.ops if op.kind in ("conv", "batch_norm")} <= set(seen)


def test_changes_reach_recognised_operators_off_the_path():
    model, x = net("optional-mask")
    graph = trace(model, x)
    x, mask = masked()
    softmax = next(op.index for op in graph.ops if op.name == "softmax")
    wide = next(op.index for op in graph.ops if op.path == "wide")
    changes = Interventions(
        before=lambda op, args: (0 * args[0], *args[1:]) if op.index == wide else args,
        instead=lambda op, args, kwargs: torch.zeros_like(args[0]) if op.index == softmax else NotImplemented,
    )
    with recognise(graph, model, lambda *_: None, changes=changes):
        got = model(x, mask)
    with torch.no_grad():
        h = model.embed(x)
        h = h + model.o(torch.zeros(*h.shape[:2], 12))
        h = (h + model.narrow(torch.relu(model.wide.bias))) * mask[:, :, None]
        assert torch.allclose(got, model.out(h.mean(1)), atol=1e-5)


def test_two_calls_of_one_module_are_told_apart_by_what_they_read():
    model = nn.Linear(4, 4)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.both, self.swap = nn.Linear(4, 4), nn.Linear(4, 4), model, False

        def forward(self, x):
            one, two = torch.relu(self.a(x)), torch.tanh(self.b(x))
            if self.swap:
                y = self.both(two)
                return self.both(one) - y
            return self.both(one) - self.both(two)

    twice, x = Twice(), torch.randn(3, 4)
    graph = trace(twice, x)
    order = []
    twice.swap = True
    replay(graph, twice, x, lambda op, *_: order.append(op.index) if op.path == "both" else None)
    first, second = (op.index for op in graph.ops if op.path == "both")
    assert order == [second, first]


def test_nothing_is_kept_of_the_tensors_of_a_forward():
    model, x = net("optional-mask")
    graph, kept = trace(model, x), []
    with recognise(graph, model, lambda op, args, kwargs, out: kept.append(weakref.ref(out))) as walk:
        call(model, x)
        gc.collect()
        assert not any(t() is not None for t in kept)
        assert len(walk.recogniser._held) <= 1  # the input


def test_a_call_of_nothing_known_is_none_of_the_operators():
    model, x = net("optional-mask")
    graph = trace(model, x)
    assert recorded(graph) is recorded(graph)
    finder = Recogniser(recorded(graph), {}, lambda: "")
    assert finder.find(torch.ops.aten.relu.default, (torch.ones(2),), {}) is None


def hooked(model, batches):
    """Layer -> (sum of squares of what each input feature carries, number of rows), by hooks."""
    sums = {}

    def hook(name):
        def see(module, args):
            x = args[0].reshape(-1, args[0].shape[-1]).double()
            sums.setdefault(name, []).append(x)

        return see

    handles = [m.register_forward_pre_hook(hook(n)) for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        for x in batches:
            call(model, x)
    for h in handles:
        h.remove()
    return sums


def pairs(name):
    """Batches of other sizes than the example, in paths of their own."""
    g = torch.Generator().manual_seed(3)
    y = lambda n: torch.randint(0, 5, (n,), generator=g)
    if name == "optional-mask":
        inputs = [masked(7, 9, 2), masked(7, 5, 1, left=True), masked(4, 6, 2), masked(3, 6)[0]]
    elif name == "loop-by-input":
        inputs = [(torch.randn(n, 12, generator=g), torch.tensor([r])) for n, r in ((7, 1), (7, 2), (3, 5))]
    else:
        inputs = [torch.randn(n, 3, *s, generator=g) for n, s in ((7, (8, 8)), (7, (10, 6)), (3, (8, 8)))]
    return [(x, y(len(x) if isinstance(x, torch.Tensor) else len(x[0]))) for x in inputs]


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("name", ["optional-mask", "loop-by-input", "cached-grid", "early-exit", "lstm"])
def test_criteria_take_batches_of_any_path(name, criterion):
    model, example = net(name)
    if name == "cached-grid":
        call(model, torch.randn(1, 3, 8, 8))
    graph = trace(model, example)
    data = (
        pairs(name) if name != "lstm" else [(torch.randn(n, *example.shape[1:]), torch.zeros(n).long()) for n in (7, 3)]
    )
    if name == "cached-grid":
        loss = lambda out, y: out.square().mean()
    else:
        loss = None
    scores = score(graph, model, criterion, calibration=Calibration(data, loss=loss), listener=LISTENER)
    assert scores.keys() == graph.groups.keys() and all(bool(torch.isfinite(s).all()) for s in scores.values())


@pytest.mark.parametrize("name", ["optional-mask", "loop-by-input"])
def test_input_norms_are_those_that_hooks_on_the_layers_see(name):
    model, example = net(name)
    graph = trace(model, example)
    data = pairs(name)
    group = next(n for n, g in graph.groups.items() if g.units == 14)
    got = score(graph, model, "wanda", calibration=Calibration(data), scaling=PLAIN)[group]
    weight = model.narrow.weight.detach().double().abs().sum(0)
    calls = [rows for x, _ in data for rows in hooked(model, [x]).get("narrow", [])]
    if name == "optional-mask":
        want = torch.cat(calls).square().mean(0).sqrt() * weight  # over all positions of all batches
        assert torch.allclose(got, want, rtol=1e-4)
    else:
        assert bool((got > 0).all()) and len(calls) == 8


def test_a_place_that_no_batch_reaches_is_named():
    model, (x, _) = net("loop-by-input")
    graph = trace(model, (x, torch.tensor([1])))
    data = [((x, torch.tensor([0])), torch.zeros(2).long())]
    inner = next(n for n, g in graph.groups.items() if g.units == 14)
    for criterion in ("flap", "group-fisher", "reconstruction"):
        with pytest.raises(BadInput, match=r"no calibration batch reached .*linear in narrow"):
            score(graph.only([inner]), model, criterion, calibration=Calibration(data))


def test_what_some_groups_miss_is_noted_once():
    model, (x, _) = net("loop-by-input")
    graph = trace(model, (x, torch.tensor([2])))
    data = [((x, torch.tensor([0])), torch.zeros(2).long())]
    (stream,) = (n for n, g in graph.groups.items() if g.units == 8)
    with pytest.warns(UserWarning, match="no batch reached linear in wide, although the example did"):
        score(graph.only([stream]), model, "flap", calibration=Calibration(data))


def test_units_are_looked_for_in_the_last_dimension_of_a_linear_layer_of_any_rank():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    graph = trace(model, torch.randn(2, 4))
    (name,) = graph.groups
    (site,) = graph.sites(name)
    assert unit_dim(graph, site, torch.zeros(3, 5, 6)) == 2
    assert unit_dim(graph, site, torch.zeros(3, 5, 7)) is None
