"""Numbers that a forward computes from a width are those of the original after the cut."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from tests.surgery.halved import made
from torch import Tensor, nn

from sartor.export import export_onnx, export_pt2
from sartor.structure import trace
from sartor.surgery import Edits, apply_edits, cut, edits_for, probe, prove, silence
from sartor.surgery.kept_numbers import KeptNumber
from sartor.testing.plans import unequal
from sartor.testing.zoo import ZOO

ROWS = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(0))
CASE = ZOO["scaled-by-width"].value


class DefaultScale(nn.Module):
    """Attention without a scale, so PyTorch derives it from the width."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(12, 10), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x)))


class HeldLimit(nn.Module):
    """The width is computed with in a legacy constructor, whose argument nothing can replace."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(12, 9), nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.b(x / torch.FloatTensor([x.shape[-1]]))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("build", [CASE.build, lambda: made(DefaultScale())], ids=["numbers", "attention"])
def test_a_cut_network_computes_with_the_numbers_of_the_original(build, seed):
    model = build()
    graph = probe(model, trace(model, ROWS))
    plan = unequal(graph, seed)
    edits = edits_for(model, graph, plan)
    assert edits.numbers and not edits.programs and prove(model, graph, plan, ROWS).passed
    smaller, silenced = cut(model, graph, plan), silence(model, graph, plan)
    longer = torch.randn(3, 11, 12)
    assert torch.allclose(smaller(longer), silenced(longer), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", [CASE.build, lambda: made(DefaultScale())], ids=["numbers", "attention"])
def test_a_cut_network_is_cut_again_and_keeps_the_first_numbers(build):
    model = build()
    graph = probe(model, trace(model, ROWS))
    smaller = cut(model, graph, unequal(graph, 1, low=0.6))
    again = probe(smaller, trace(smaller, ROWS))
    plan = unequal(again, 2, low=0.4, high=0.7)
    smallest = cut(smaller, again, plan)
    assert prove(smaller, again, plan, ROWS, smaller=smallest).passed
    assert torch.allclose(smallest(ROWS), silence(smaller, again, plan)(ROWS), rtol=1e-4, atol=1e-5)


def test_a_network_that_keeps_numbers_is_saved_copied_pickled_and_exported(tmp_path):
    model = CASE.build()
    graph = probe(model, trace(model, ROWS))
    edits = edits_for(model, graph, unequal(graph))
    smaller = apply_edits(model, edits)
    expected = smaller(ROWS)
    assert type(smaller).__name__ == type(model).__name__ and isinstance(smaller, type(model))
    again = apply_edits(model, Edits.from_json(edits.to_json()))
    assert torch.equal(again(ROWS), expected) and torch.equal(copy.deepcopy(smaller)(ROWS), expected)
    file = io.BytesIO()
    torch.save(smaller, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(ROWS), expected)
    traced = torch.jit.trace(smaller, ROWS, check_trace=False)
    assert torch.allclose(traced(ROWS), expected, atol=1e-5)
    export_pt2(smaller, ROWS, tmp_path / "cut.pt2", check=(1, 3))


def test_the_cut_network_exports_to_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    model = CASE.build()
    graph = probe(model, trace(model, ROWS))
    export_onnx(cut(model, graph, unequal(graph)), ROWS, tmp_path / "cut.onnx", check=(1, 3))


def test_a_number_that_cannot_be_replaced_freezes_the_group_and_is_named():
    model = made(HeldLimit())
    graph = probe(model, trace(model, ROWS))
    assert not graph.groups
    assert any("computes with" in f.reason and "follows from a width" in f.reason for f in graph.frozen)


def test_integers_stay_integers_in_a_file():
    model = CASE.build()
    graph = probe(model, trace(model, ROWS))
    edits = edits_for(model, graph, unequal(graph))
    assert Edits.from_json(edits.to_json()).numbers == edits.numbers
    tensors = [n for of_module in edits.numbers.values() for n in of_module if n.kind == "tensor"]
    assert tensors and all(isinstance(n, KeptNumber) and type(n.old) is int for n in tensors)
