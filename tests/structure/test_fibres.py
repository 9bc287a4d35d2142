"""Fibred leaves: different inner units for each outer unit, where every tensor carries both leaves."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.zoo_graphs import understood
from torch import Tensor, nn

from sartor.cost import macs, params
from sartor.errors import BadInput, ProofFailed
from sartor.export.onnx import export_onnx
from sartor.export.weights import load_weights_, save_weights
from sartor.repair import Original, fold_means_, refit_consumers_
from sartor.structure import Graph, trace
from sartor.structure.axes import find
from sartor.structure.example import call
from sartor.structure.unfibre import reordered, straight
from sartor.surgery import Edits, apply_edits, carry_optimizer, cut, edits_for, probe, prove, silence
from sartor.surgery.proof import difference
from sartor.testing.plans import halves, plans, rowed, tie_of
from sartor.testing.zoo import ZOO
from sartor.types import Plan

FIBRED = (
    "conv-transpose-grouped", "depthwise-multiplier", "fused-qkv", "group-norm", "grouped-query", "lengths",
    "linear-attention", "multi-head-attention", "optional-mask", "partial-rotary", "regnet", "resnext",
    "transformer-encoder",
)  # fmt: skip
MIXED = {
    "fused-qkv",
    "group-norm",
    "lengths",
    "multi-head-attention",
    "optional-mask",
    "transformer-encoder",
}  # every group that may have fibres is mixed


class TwoHeads(nn.Module):
    """Linear attention with two heads; each uses half of its four units, and the two use different halves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.width = 2, 4
        self.q, self.k, self.v = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8)
        self.out = nn.Linear(8, 3)
        with torch.no_grad():
            for layer in (self.q, self.k, self.v):
                for unused in (2, 3, 4, 5):  # units 2, 3 of the first head and 0, 1 of the second
                    layer.weight[unused] = 0
                    layer.bias[unused] = 0

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = (f(x).view(n, t, self.heads, self.width).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = q @ (k.transpose(-2, -1) @ v)
        return self.out(y.transpose(1, 2).reshape(n, t, self.heads * self.width))


@pytest.fixture(scope="module")
def two_heads():
    model = TwoHeads().eval()
    example = torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(0))
    graph = probe(model, trace(model, example))
    return model, example, graph


def same(graph, rows=None, keep=(0, 1)) -> Plan:
    names = list(graph.fibres)
    plan = Plan(dict.fromkeys(names, keep), "test", graph.fingerprint)
    return plan if rows is None else replace(plan, fibres=dict.fromkeys(names, rows))


def test_two_heads_with_other_units_each_lose_one_under_a_shared_mask_and_none_with_rows(two_heads):
    model, example, graph = two_heads
    assert len(graph.fibres) == 2 and {h.size for h in graph.fibres.values()} == {2}  # of q and k, and of v
    want = call(model, example).detach()
    shared = min(
        float((call(cut(model, graph, same(graph, keep=k)), example).detach() - want).abs().max())
        for k in ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    )
    plan = same(graph, ((0, 1), (2, 3)))
    smaller = cut(model, graph, plan)
    assert shared > 0.01 and (call(smaller, example) - want).abs().max() < 1e-6
    assert prove(model, graph, plan, example).max_relative_error < 1e-6
    ordinary = cut(model, graph, same(graph))
    assert [p.shape for p in smaller.parameters()] == [p.shape for p in ordinary.parameters()]


def test_a_fibred_plan_goes_through_files(two_heads, tmp_path):
    model, example, graph = two_heads
    plan = same(graph, ((0, 1), (2, 3)))
    assert Plan.from_json(plan.to_json()) == plan
    assert "fibres" not in json.loads(same(graph).to_json())
    smaller = cut(model, graph, plan)
    save_weights(smaller, tmp_path / "w.safetensors")
    again = apply_edits(TwoHeads(), Edits.from_json(edits_for(model, graph, plan).to_json())).eval()
    load_weights_(again, tmp_path / "w.safetensors")
    assert torch.equal(call(again, example), call(smaller, example))
    export_onnx(smaller, example, tmp_path / "m.onnx")


@pytest.mark.parametrize("name", FIBRED)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_cutting_equals_silencing_with_rows(name, data):
    model, example, graph = understood(name)
    plan = rowed(graph, data.draw(plans(graph)), data.draw(st.integers(0, 9)))
    proof = prove(model, graph, plan, example)
    assert proof.passed and proof.max_relative_error <= 1e-4
    shapes = graph.shapes(plan.counts())
    assert {n: tuple(p.shape) for n, p in cut(model, graph, plan).named_parameters()} == {
        n: shapes[n] for n, _ in model.named_parameters()
    }


@pytest.mark.parametrize("name", sorted(set(FIBRED) - MIXED))
def test_the_original_itself_silenced_row_by_row_computes_what_is_cut(name):
    model, example, graph = understood(name)
    exact = [n for n in graph.fibres if not graph.groups[n].mixes]
    plan = rowed(graph, Plan({n: halves(graph).keep[n] for n in exact}, "rows", graph.fingerprint), 3)
    assert difference(model, graph, plan, cut(model, graph, plan), example) <= 1e-5


def test_norms_over_fibred_units_are_proved_on_the_renumbered_network():
    model, example, graph = understood("group-norm")
    plan = rowed(graph, halves(graph))
    assert prove(model, graph, plan, example).mixing_groups == 0
    with pytest.raises(BadInput, match="norms over fibred units"):
        difference(model, graph, plan, cut(model, graph, plan), example)


@pytest.mark.parametrize("name", FIBRED)
def test_edits_survive_json_and_replay(name):
    model, _, graph = understood(name)
    plan = rowed(graph, halves(graph))
    edits = edits_for(model, graph, plan)
    assert plan.fibres and Edits.from_json(edits.to_json()) == edits
    fresh = apply_edits(ZOO[name].value.build(), Edits.from_json(edits.to_json()))
    fresh.load_state_dict(cut(model, graph, plan).state_dict())


@pytest.mark.parametrize("name", FIBRED)
def test_renumbering_every_row_by_itself_changes_nothing(name):
    model, example, graph = understood(name)
    generator = torch.Generator().manual_seed(1)
    orders = {
        n: torch.stack([torch.randperm(graph.groups[n].units, generator=generator) for _ in range(over.size)])
        for n, over in graph.fibres.items()
    }
    turned = reordered(model, graph, orders)
    want, got = (call(m.eval(), example) for m in (model, turned))
    assert (want - got).abs().max() <= 1e-5 * want.abs().max()
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), turned.parameters()))
    back = reordered(turned, graph, {n: o.argsort(1) for n, o in orders.items()})
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), back.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "levit_128s", "cait_xxs24_224", "xcit_nano_12_p16_224",
     "pvt_v2_b0", "convit_tiny", "visformer_tiny", "regnety_004", "resnext50_32x4d", "halonet_h1"],
)  # fmt: skip
def test_renumbering_rows_changes_nothing_in_published_networks(name):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    x = torch.randn(1, *model.default_cfg["input_size"])
    graph = trace(model, x)
    for p in model.parameters():  # scales of residual branches start near zero
        p.data.add_(0.1 * torch.randn_like(p)) if p.dim() == 1 else None
    orders = {
        n: torch.stack([torch.randperm(graph.groups[n].units) for _ in range(over.size)])
        for n, over in graph.fibres.items()
    }
    with torch.no_grad():
        want = model.double()(x.double())
        got = reordered(model, graph, orders)(x.double())
    assert orders and (want - got).abs().max() <= 1e-9 * want.abs().max()


def test_equal_rows_are_an_ordinary_plan():
    for name in FIBRED:
        model, _, graph = understood(name)
        plan = halves(graph)
        rows = {n: (plan.keep[n],) * over.size for n, over in graph.fibres.items()}
        one, other = cut(model, graph, plan), cut(model, graph, replace(plan, fibres=rows))
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters())), name
        fibred = replace(plan, fibres=rows)
        assert macs(graph, plan.counts()) == macs(graph, fibred.counts())
        assert params(graph, plan.counts()) == sum(p.numel() for p in other.parameters())


def test_what_stands_alone_somewhere_is_not_fibred():
    for name in ZOO:
        if name not in FIBRED:
            assert not understood(name)[2].fibres, name


class TalkingHeads(nn.Module):
    """A matrix over heads mixes the values of all heads."""

    def __init__(self, *, residual: bool) -> None:
        super().__init__()
        self.heads, self.width, self.residual = 3, 4, residual
        self.v, self.mix, self.out = nn.Linear(6, 12), nn.Linear(3, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        v = self.v(x).view(n, t, self.heads, self.width).transpose(2, 3)
        mixed = self.mix(v) + v if self.residual else self.mix(v)
        return self.out(mixed.transpose(2, 3).reshape(n, t, self.heads * self.width))


class OverHeads(nn.Module):
    """An operator in between relates heads to each other at the same inner unit."""

    def __init__(self, what) -> None:
        super().__init__()
        self.heads, self.width, self.what = 3, 4, what
        self.v, self.out = nn.Linear(6, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        v = self.what(self.v(x).view(len(x), self.heads, self.width))
        return self.out(v.reshape(len(x), self.heads * self.width))


RELATING = {
    "softmax": lambda v: v.softmax(1),
    "mean": lambda v: v - v.mean(1, keepdim=True),
    "sum": lambda v: v * v.sum(1, keepdim=True),
    "roll": lambda v: v + v.roll(1, 1),
    "flip": lambda v: v + v.flip(1),
    "cumsum": lambda v: v.cumsum(1),
    "max": lambda v: v.amax(1, keepdim=True) * v,
    "attention": lambda v: torch.nn.functional.scaled_dot_product_attention(v, v, v, scale=1.0),
    "gram": lambda v: (v @ v.transpose(1, 2)) @ v,
    "layer norm": lambda v: torch.nn.functional.layer_norm(v.transpose(1, 2), (v.shape[1],)).transpose(1, 2),
    "one head": lambda v: v * v[:, :1],
    "neighbours": lambda v: torch.cat([v[:, :1], v[:, 1:] + v[:, :-1]], 1),
    "sorted": lambda v: v.sort(1).values,
    "triangle": lambda v: v.tril(),
    "fourier": lambda v: torch.fft.fft(v, dim=1).real,
    "gate": lambda v: torch.cat([torch.nn.functional.glu(v[:, :2], 1), v[:, 1:]], 1),
    "convolution": lambda v: torch.nn.functional.conv1d(
        v.transpose(1, 2), torch.ones(4, 1, 3), padding=1, groups=4
    ).transpose(1, 2),
    "variance": lambda v: v / v.var(1, keepdim=True),
    "shifted": lambda v: v + torch.nn.functional.pad(v, (0, 0, 1, 0))[:, :-1],
    "einsum": lambda v: torch.einsum("nhd,gh->ngd", v, torch.ones(3, 3)),
    "picked": lambda v: v[:, [2, 0, 1]],
}


@pytest.mark.parametrize("name", RELATING)
def test_inner_units_that_meet_those_of_another_head_are_not_fibred(name):
    model = OverHeads(RELATING[name]).eval()
    graph = trace(model, torch.randn(2, 6))
    inner = [n for n, a in graph.leaves.items() if find(a).size == 4]
    assert not set(inner) & set(graph.fibres)


@pytest.mark.parametrize("residual", [False, True])
def test_values_that_heads_exchange_are_not_fibred(residual):
    graph = trace(TalkingHeads(residual=residual).eval(), torch.randn(2, 5, 6))
    assert not graph.fibres


def test_a_plan_with_rows_that_do_not_fit_is_refused(two_heads):
    model, _, graph = two_heads
    name = next(iter(graph.fibres))
    plan = Plan({n: (0, 1) for n in tie_of(graph, name)}, "test", graph.fingerprint)
    with pytest.raises(BadInput, match="under 'keep' as well"):
        replace(plan, keep={}, fibres={name: ((0, 1), (0, 1))})
    with pytest.raises(BadInput, match="expected 2 kept indices in every row"):
        replace(plan, fibres={name: ((0, 1), (0, 1, 2))})
    with pytest.raises(BadInput, match="sorted, unique"):
        replace(plan, fibres={name: ((0, 1), (1, 0))})
    with pytest.raises(BadInput, match="expected 2 rows of kept indices; got 3"):
        cut(model, graph, replace(plan, fibres={name: ((0, 1),) * 3}))
    with pytest.raises(BadInput, match=r"within \[0, 4\); got 4"):
        cut(model, graph, replace(plan, fibres={name: ((0, 1), (0, 4))}))
    other = next(n for n in graph.groups if n not in graph.fibres)
    with pytest.raises(BadInput, match="some tensor carries these units without an outer axis"):
        cut(model, graph, Plan({other: (0,)}, "test", graph.fingerprint, {other: ((0,), (1,))}))


def test_the_proof_sees_fibres_that_change_the_function(monkeypatch):
    model, example = OverHeads(RELATING["sum"]).eval(), torch.randn(2, 6)
    graph = trace(model, example)
    inner = next(n for n, a in graph.leaves.items() if find(a).size == 4)
    heads = next(a for a in graph.leaves.values() if find(a).size == 3)
    monkeypatch.setattr(Graph, "fibres", {inner: find(heads)})  # this group may not have fibres
    plan = Plan({inner: (0, 1)}, "test", graph.fingerprint, {inner: ((0, 1), (0, 2), (1, 3))})
    with pytest.raises(ProofFailed, match="renumbering the units row by row changes the function"):
        prove(model, graph, plan, example)


def test_the_proof_sees_a_model_cut_without_the_fibres():
    model, example, graph = understood("fused-qkv")
    plan = rowed(graph, Plan({n: halves(graph).keep[n] for n in graph.fibres}, "rows", graph.fingerprint))
    assert prove(model, graph, plan, example, smaller=cut(model, graph, plan)).status == "exact"
    with pytest.raises(ProofFailed, match="does not hold the kept units"):
        prove(model, graph, plan, example, smaller=cut(model, graph, replace(plan, fibres={})))


def test_silencing_row_by_row_zeroes_what_the_rows_leave_out(two_heads):
    model, _, graph = two_heads
    silent = silence(model, graph, same(graph, ((0, 1), (2, 3))))
    left = silent.v.weight.abs().sum(1) > 0
    assert left.tolist() == [True, True, False, False, False, False, True, True]


@pytest.mark.parametrize("name", ["regnet", "linear-attention"])
def test_repairs_work_on_fibred_plans(name):
    model, example, graph = understood(name)
    plan = rowed(graph, Plan({n: halves(graph).keep[n] for n in graph.fibres}, "rows", graph.fingerprint))
    one, flat = straight(model, graph, plan)  # the same network, and a plan without fibres

    def repaired(network, to) -> list[Tensor]:
        folded, refitted = cut(network, graph, to), cut(network, graph, to)
        assert fold_means_(folded, Original(network, graph, to), [example], samples=8) > 0
        assert refit_consumers_(refitted, Original(network, graph, to), [example]) > 0
        return [*folded.parameters(), *folded.buffers(), *refitted.parameters()]

    assert all(torch.equal(a, b) for a, b in zip(repaired(model, plan), repaired(one, flat), strict=True))


def test_momenta_follow_the_rows():
    model, _, graph = understood("regnet")
    plan = rowed(graph, halves(graph))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for p in model.parameters():
        optimizer.state[p]["momentum_buffer"] = p.detach().clone()
    edits = edits_for(model, graph, plan)
    smaller = apply_edits(model, edits)
    carried = carry_optimizer(optimizer, model, smaller, edits)
    assert all(torch.equal(carried.state[p]["momentum_buffer"], p) for p in smaller.parameters())
