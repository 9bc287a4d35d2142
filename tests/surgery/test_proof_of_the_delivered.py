"""The proof looks at the network that is delivered, and nothing in its weights or outputs can hide a difference."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.surgery.halved import IMAGE, ROWS, made
from tests.zoo_graphs import understood
from torch import Tensor, nn

from sartor.errors import ProofFailed
from sartor.structure import trace
from sartor.structure.example import call, with_batch
from sartor.structure.model_copy import named_tensors
from sartor.surgery import cut, probe, prove
from sartor.surgery.delivered import check_layout, layout
from sartor.surgery.outputs import gap
from sartor.surgery.redraw import other_values, redrawn
from sartor.testing.hiding import hiding
from sartor.testing.plans import halves
from sartor.testing.zoo import cases

NAMES = [c.name for c in cases(without=("hard",)) if c.name != "bilinear"]  # its operator has no rule


def delivered(name: str) -> tuple[nn.Module, Any, Any, Any, nn.Module]:
    model, example = hiding()[name]()
    graph = probe(model, trace(model, example))
    plan = halves(graph)
    return model, example, graph, plan, cut(model, graph, plan)


def test_a_network_of_zeros_is_refused_although_attention_mixes_its_units() -> None:
    model, example, graph, plan, network = delivered("ViT")
    assert any(g.mixes for g in graph.groups.values())
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    with pytest.raises(ProofFailed, match="does not hold the kept units"):
        prove(model, graph, plan, example, smaller=network)


@pytest.mark.parametrize("name", hiding())
def test_what_hides_a_cut_is_compared_with_redrawn_weights(name: str) -> None:
    model, example, graph, plan, network = delivered(name)
    verdict = prove(model, graph, plan, example, smaller=network)
    assert verdict.passed and verdict.status == "exact" and verdict.redrawn_precision == "float64"
    assert verdict.redrawn_error is not None and verdict.redrawn_error <= 1e-9 and verdict.examples == 3
    assert verdict.tensors == len({id(t) for *_, t in named_tensors(model)}) and verdict.outputs >= 3


class NearZero(nn.Module):
    """Attention whose scores are near zero, with a scale from a width in a place that the shape check does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))
        for p in (self.q.weight, self.k.weight, self.q.bias, self.k.bias):
            p.data.mul_(1e-4)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x), self.k(x), self.v(x)
        scores = q @ k.transpose(1, 2) / torch.sqrt(torch.tensor([float(q.size(-1))] * 2))[0]
        return self.o(scores.softmax(-1) @ v)


def test_a_scale_computed_from_a_width_is_refused_though_the_scores_are_near_zero() -> None:
    model = NearZero().eval()
    graph = probe(model, trace(model, ROWS))
    if "q" not in graph.groups:
        pytest.skip("the group is frozen before it can be cut")
    with pytest.raises(ProofFailed, match="redrawn weights"):
        prove(model, graph, halves(graph), ROWS)


def test_a_fault_after_the_cut_in_a_training_flag_or_a_hook_is_refused() -> None:
    model, example, graph, plan, network = delivered("CIFAR ResNet")
    flagged, hooked, tied = copy.deepcopy(network), copy.deepcopy(network), copy.deepcopy(network)
    next(m for m in flagged.modules() if isinstance(m, nn.BatchNorm2d)).train()
    hooked.register_forward_hook(lambda m, a, out: out)
    norms = [m for m in tied.modules() if isinstance(m, nn.BatchNorm2d)]
    norms[0].bias = norms[0].weight
    for wrong, message in ((flagged, "training"), (hooked, "_forward_hooks"), (tied, "ties")):
        with pytest.raises(ProofFailed, match=message):
            prove(model, graph, plan, example, smaller=wrong)


def test_a_cut_hugging_face_network_is_proved() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24
    )
    model = made(transformers.BertModel(config))
    graph = probe(model, trace(model, example := {"input_ids": torch.arange(20).reshape(2, 10)}))
    assert prove(model, graph, halves(graph), example).passed


def test_frozen_parameters_and_double_precision_are_kept() -> None:
    model = made(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)))
    model[0].weight.requires_grad_(False)
    graph = probe(model, trace(model, ROWS))
    network = cut(model, graph, halves(graph))
    assert prove(model, graph, halves(graph), ROWS, smaller=network).passed
    network[0].weight.requires_grad_(True)
    with pytest.raises(ProofFailed, match="requires_grad"):
        prove(model, graph, halves(graph), ROWS, smaller=network)
    with pytest.raises(ProofFailed, match="dtype"):
        prove(model, graph, halves(graph), ROWS, smaller=cut(model, graph, halves(graph)).double())


def test_nan_in_weights_is_compared_bit_for_bit() -> None:
    model = made(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)))
    graph = probe(model, trace(model, ROWS))
    with torch.no_grad():
        model[2].bias.fill_(float("nan"))
    verdict = prove(model, graph, halves(graph), ROWS)
    assert verdict.tensors == 4 and verdict.redrawn_error is not None


def test_half_precision_is_compared_in_double() -> None:
    model = made(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))).bfloat16()
    rows = ROWS.bfloat16()
    graph = probe(model, trace(model, rows))
    verdict = prove(model, graph, halves(graph), rows)
    assert verdict.max_relative_error <= 1e-9 and verdict.redrawn_precision == "float64"


class Casts(nn.Module):
    """A norm in float32 inside a network of any precision, and a buffer that is made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        y = torch.zeros(x.shape, dtype=torch.float32)
        y[:] = x.float()
        y = y * torch.rsqrt(y.pow(2).sum(-1, keepdim=True) + 1e-6)
        return self.b(y.to(self.b.weight.dtype))


def test_a_forward_that_asks_for_float32_is_compared_in_float64_throughout() -> None:
    model = made(Casts())
    graph = probe(model, trace(model, ROWS))
    assert prove(model, graph, halves(graph), ROWS).redrawn_error <= 1e-13


def test_a_network_on_meta_is_not_comparable() -> None:
    model = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).to("meta").eval()
    rows = ROWS.to("meta")
    graph = probe(model, trace(model, rows))
    verdict = prove(model, graph, halves(graph), rows)
    assert verdict.status == "not comparable" and not verdict.passed and "on meta" in verdict.left_out[0][1]


@pytest.mark.parametrize("name", NAMES)
def test_redrawn_weights_leave_no_path_dead_or_saturated(name: str) -> None:
    """Every activation behind a linear map varies by about one, and the original's weights are not touched."""
    model, example, graph = understood(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    new = redrawn(model, graph, example)
    spreads: list[float] = []
    linear = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    for m in new.modules():
        if isinstance(m, linear):
            m.register_forward_hook(lambda m, a, out: spreads.append(float(out.std())))
    with torch.no_grad():
        outputs = call(new, example)
    largest = 500 if name == "spectral-norm" else 50  # it divides by a product with vectors that are not redrawn
    assert all(0.05 < s < largest for s in spreads), sorted(spreads)
    assert gap(outputs, call(model, example)).error > 1e-3
    assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_other_inputs_stay_in_the_range_of_the_example() -> None:
    ids = torch.tensor([[5, 2, 9, 2], [7, 3, 3, 8]])
    example = {"ids": ids, "mask": torch.ones(2, 4), "positions": torch.arange(4)[None], "pixels": IMAGE}
    other = other_values(example)
    assert set(other["ids"].flatten().tolist()) <= set(ids.flatten().tolist()) and not torch.equal(other["ids"], ids)
    assert other["mask"] is example["mask"] and other["positions"] is example["positions"]
    assert not torch.equal(other["pixels"], IMAGE) and other["pixels"].min() >= IMAGE.min()
    assert torch.equal(other_values(with_batch(IMAGE, 2)), other_values(IMAGE))


A, B = torch.tensor([1.0, 2.0]), torch.tensor([1, 2])


@pytest.mark.parametrize(
    ("expected", "actual"),
    [
        (A, None), ((A, A), (A,)), ((A,), [A]), ({"a": A}, {"b": A}), (A, A.double()), (A, A[:1]), (B, B + 1),
        ({"a": A, "b": None}, {"a": A, "b": A}), (3, 4), (SimpleNamespace(x=A), SimpleNamespace(x=A, y=A)),
        (A, torch.tensor([1.0, float("nan")])), (torch.tensor([float("inf"), 1.0]), torch.tensor([-float("inf"), 1.0])),
    ],
)  # fmt: skip
def test_outputs_of_another_structure_are_infinitely_far_apart(expected: Any, actual: Any) -> None:
    assert gap(expected, actual).error == float("inf")
    assert gap(expected, expected).error == 0.0


def test_small_outputs_are_measured_against_their_own_size() -> None:
    found = gap({"large": 1e6 * A, "small": 1e-6 * A}, {"large": 1e6 * A, "small": 1e-6 * A * 1.01})
    assert 0.009 < found.error < 0.011 and found.outputs == 2 and "small" in found.where


def test_repair_and_training_may_change_values_and_nothing_else() -> None:
    _, _, _, _, network = delivered("CIFAR ResNet")
    proved = layout(network)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(1)
    check_layout(proved, network.train())
    next(m for m in network.modules() if isinstance(m, nn.Conv2d)).stride = (2, 2)
    with pytest.raises(ProofFailed, match="stride"):
        check_layout(proved, network)
