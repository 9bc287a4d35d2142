"""What one batch shows: contributions against gradients of weights, samples told apart, precision, what is borrowed."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.activations.test_follow import Turning
from torch import nn

from sartor.activations.observers import Request, observe
from sartor.activations.sites import read_sites, sample_dim, sites
from sartor.errors import BadInput
from sartor.structure import trace
from sartor.structure.example import first_tensor, map_tensors, with_batch
from sartor.testing.zoo import ZOO

NETS = (
    "resnet", "cifar-resnet-pad", "mobilenet-v2", "resnext", "conv1d", "densenet", "multi-head-attention",
    "transformer-encoder", "convnext", "layer-norm-mlp", "squeeze-excite", "plain-attention", "lstm", "inplace",
    "einsum", "channel-shuffle-module", "unet",
)  # fmt: skip


def batch(name, n):
    """A zoo network, its graph, and n samples that differ."""
    case = ZOO[name].value
    model, example = case.build(), case.example()
    g = torch.Generator().manual_seed(5)
    draw = lambda t: (
        torch.randn(t.shape, generator=g) if t.is_floating_point() else torch.randint(0, 5, t.shape, generator=g)
    )
    return model, trace(model, example), map_tensors(draw, with_batch(example, n))


def squares(output, targets):
    """A loss that needs no labels; its mean over samples."""
    y = first_tensor(output)
    return (y * torch.linspace(-1, 1, y.numel() // y.shape[0]).reshape(y.shape[1:])).pow(2).flatten(1).sum(1).mean()


def gated(model, graph, group, x, strength):
    """The loss with every unit of a group multiplied at the weights that read it; None where there are none."""
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    readers = [m for m in graph.groups[group].members if m.role == "in" and m.tensor in weights]
    if not readers:
        return None
    for m in readers:
        scale = torch.ones(weights[m.tensor].shape[m.dim], dtype=strength.dtype)
        scale = scale.index_put(
            (graph.positions(group, m).flatten(),), strength.repeat_interleave(graph.positions(group, m).shape[1])
        )
        weights[m.tensor] = weights[m.tensor] * scale.view(
            [-1 if d == m.dim else 1 for d in range(weights[m.tensor].dim())]
        )
    args = x if isinstance(x, tuple) else (x,)
    return squares(torch.func.functional_call(model, weights, args), None)


@pytest.mark.parametrize(
    "name", ["resnet", "cifar-resnet-pad", "mobilenet-v2", "resnext", "conv1d", "densenet", "unet"]
)
def test_contributions_are_the_derivative_by_a_gate_on_the_readers_weights(name):
    model, graph, x = batch(name, 3)
    found = observe(graph, model, (x, None), Request(contributions=list(graph.groups)), loss=squares).contributions
    assert found.keys() == graph.groups.keys()
    checked = 0
    for group, c in found.items():
        units = graph.groups[group].units
        assert c.shape == (units, 3) and c.dtype == torch.float64
        gate = torch.ones(units, requires_grad=True)
        value = gated(model, graph, group, x, gate)
        if value is None:
            continue
        (want,) = torch.autograd.grad(value, gate)
        assert torch.allclose(c.mean(1).float(), want, rtol=1e-3, atol=1e-4 * float(want.abs().max())), group
        checked += 1
    assert checked


@pytest.mark.parametrize("name", NETS)
def test_each_sample_contributes_what_it_contributes_alone(name):
    """Also where a batch lies behind the tokens, or is folded into them."""
    model, graph, x = batch(name, 4)
    together = observe(graph, model, (x, None), Request(contributions=list(graph.groups)), loss=squares).contributions
    for i in range(4):
        one = map_tensors(lambda t: t[i : i + 1], x)  # noqa: B023
        alone = observe(
            graph, model, (one, None), Request(contributions=list(graph.groups)), loss=squares
        ).contributions
        for group, c in together.items():
            scale = float(c.abs().max()) or 1.0
            assert torch.allclose(c[:, i : i + 1], alone[group], rtol=1e-3, atol=1e-4 * scale), group


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("at", ["read", "written"])
def test_each_sample_carries_what_it_carries_alone(name, at):
    model, graph, x = batch(name, 4)
    watch = {(g, i): s for g in graph.groups for i, s in enumerate(sites(graph, g, at))}
    assert watch
    seen = {}

    def show(inputs, n):
        shown = {}
        observe(
            graph, model, (inputs, None), Request(watch=watch, visit=lambda k, c: shown.update({k: c.between(0, n)}))
        )
        return shown

    seen = show(x, 4)
    assert seen.keys() == watch.keys()
    for i in range(4):
        alone = show(map_tensors(lambda t: t[i : i + 1], x), 1)  # noqa: B023
        for key, v in seen.items():
            assert v.shape[:2] == (graph.groups[key[0]].units, 4)
            assert torch.allclose(v[:, i : i + 1], alone[key], rtol=1e-3, atol=1e-4), key


@pytest.mark.parametrize("name", NETS)
def test_gradients_in_lock_step_are_those_of_backward(name):
    """With contributions asked for, the forward runs operator by operator; the gradients are the same."""
    model, graph, x = batch(name, 3)
    found = observe(graph, model, (x, None), Request(contributions=list(graph.groups), grads=True), loss=squares).grads
    plain = observe(graph, model, (x, None), Request(grads=True), loss=squares).grads
    assert found.keys() == plain.keys() == {n for n, p in model.named_parameters() if p.is_floating_point()}
    for n in plain:
        assert torch.allclose(found[n], plain[n], rtol=1e-3, atol=1e-4 * float(plain[n].abs().max() or 1)), n
    net = copy.deepcopy(model).eval()
    squares(net(*x) if isinstance(x, tuple) else net(x), None).backward()
    for n, p in net.named_parameters():
        if p.grad is not None:
            assert torch.allclose(plain[n], p.grad, rtol=1e-4, atol=1e-6), n


class Overwritten(nn.Module):
    """What a reader took in is written over behind it."""

    def __init__(self):
        super().__init__()
        self.up, self.mid, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x):
        x = self.up(x)
        y = torch.tanh(self.mid(x))
        x += y
        x *= 2
        return self.head(x)


def test_a_value_that_is_overwritten_later_counts_as_it_was_read():
    torch.manual_seed(0)
    model, x = Overwritten(), torch.randn(5, 4)
    graph = trace(model, x[:2])
    other = copy.deepcopy(model)
    other.forward = lambda x: model.head((model.up(x) + torch.tanh(model.mid(model.up(x)))) * 2)
    found = observe(graph, model, (x, None), Request(contributions=list(graph.groups)), loss=squares).contributions
    for group, c in found.items():
        gate = torch.ones(graph.groups[group].units, requires_grad=True)
        weights = {n: p.detach() for n, p in model.named_parameters()}
        up = F.linear(x, weights["up.weight"], weights["up.bias"])
        y = F.linear(
            (up + torch.tanh(F.linear(up * gate, weights["mid.weight"], weights["mid.bias"]))) * 2 * gate,
            weights["head.weight"], weights["head.bias"],
        )  # fmt: skip
        (want,) = torch.autograd.grad(squares(y, None), gate)
        assert torch.allclose(c.mean(1).float(), want, rtol=1e-4), group


def test_a_depthwise_convolution_passes_its_channels_on():
    _, graph, _ = batch("mobilenet-v2", 2)
    group = "1.body.0.0"
    assert [graph.ops[s.op].arg("groups") for s in sites(graph, group, "read")] == [16, 1]
    assert [graph.ops[s.op].arg("groups") for s in read_sites(graph, group)] == [1]
    assert all(s.slot == "out" for s in sites(graph, group, "written"))


def test_the_dimension_of_the_samples_is_told_or_refused():
    model, graph, x = batch("multi-head-attention", 4)
    told = set()

    def see(key, carried):
        told.add(carried.samples)

    watch = {(g, i): s for g in graph.groups for i, s in enumerate(sites(graph, g, "read"))}
    observe(graph, model, (x, None), Request(watch=watch, visit=see))
    assert told >= {1}  # behind the tokens, or put together from single samples
    (site,) = [s for s in graph.sites("attention.in_proj_weight:0")]
    assert sample_dim(graph, site, torch.zeros(24, 16), 4) is None


def test_bfloat16_gives_nearly_the_same_in_float32():
    model, graph, x = batch("resnet", 4)
    watch = {(g, i): s for g in graph.groups for i, s in enumerate(graph.sites(g))}
    seen = {}
    for precision in ("float32", "bfloat16"):
        shown = {}
        show = lambda k, c: shown.update({k: c.between(0, 4)})  # noqa: B023
        request = Request(watch, show, list(graph.groups), grads=True)
        found = observe(graph, model, (x, None), request, loss=squares, precision=precision)
        assert all(v.dtype == torch.float32 for v in [*shown.values(), *found.grads.values()])
        only = {}
        request = Request(watch, lambda k, c: only.update({k: c.between(0, 4)}))  # noqa: B023
        observe(graph, model, (x, None), request, precision=precision)
        assert all(torch.allclose(only[k], shown[k], rtol=1e-4, atol=1e-5) for k in shown)
        seen[precision] = {**{str(k): v for k, v in shown.items()}, **found.contributions}
    for key, full in seen["float32"].items():
        half = seen["bfloat16"][key]
        assert 0 < float((half - full).norm() / full.norm()) < 0.15, key


def test_another_path_is_taken_with_gradients_too():
    model, x = Turning(), torch.randn(2, 4)
    graph = trace(model, x)
    model.turn = True
    found = observe(graph, model, (x, None), Request(contributions=list(graph.groups)), loss=squares)
    (group,) = graph.groups
    gate = torch.ones(6, requires_grad=True)
    (want,) = torch.autograd.grad(squares(model.b(torch.tanh(model.a(x)) * gate), None), gate)
    assert not found.unseen and torch.allclose(found.contributions[group].mean(1).float(), want, rtol=1e-4, atol=1e-6)


def test_nothing_leaks_when_the_forward_or_the_loss_fails(model, graph, batches):
    x, y = batches[0]
    with pytest.raises(BadInput, match="one number"):
        observe(graph, model, (x, y), Request(contributions=list(graph.groups)), loss=lambda o, t: o)
    with pytest.raises(RuntimeError):
        observe(graph, model, (torch.randn(2, 5, 6, 6), y[:2]), Request(contributions=list(graph.groups)))
    assert torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    assert model.training and not model._forward_hooks
    w = torch.ones(2, requires_grad=True)
    (w[:1] * 2).sum().backward()
    assert torch.equal(w.grad, torch.tensor([2.0, 0.0]))
    assert all(p.grad is None for p in model.parameters())
    assert model.stem(x).requires_grad
