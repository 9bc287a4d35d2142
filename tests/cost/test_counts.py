"""Counted costs: against torch's own counter, against the literature, against what is really allocated."""

import dataclasses
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.zoo_graphs import understood
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sartor.cost import bytes_of, count, macs, params, unit_macs
from sartor.measure import measured_memory
from sartor.structure import trace
from sartor.structure.example import call
from sartor.surgery import cut
from sartor.surgery.program import Rewritten
from sartor.testing.plans import halves
from sartor.testing.zoo import cases

spec = importlib.util.spec_from_file_location("cifar_resnet", Path(__file__).parents[2] / "bench" / "cifar_resnet.py")
cifar_resnet = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cifar_resnet)

ALL = [c.name for c in cases()]
UNCOUNTED = {  # MACs of products with a vector, which torch's counter leaves out
    "matmul": 2 * 10,
    "vectors": 5 * 8 + 8,
    "spectral-norm": sum(out * read + out for out, read in ((8, 27), (6, 72), (5, 6))),
}
NOTHING = {"bilinear"}


@pytest.fixture
def plain_kernels() -> Iterator[None]:
    """Attention, transformer layers and LSTMs run as the matrix products that they consist of.

    Which fused kernels torch's counter knows changes with the version of torch and with the processor.
    """
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize("name", ALL)
def test_two_flops_a_mac_as_torch_counts(name, plain_kernels):
    model, example, graph = understood(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call(model, example)
    counted = counter.get_total_flops() + 2 * UNCOUNTED.get(name, 0)
    assert counted == 2 * macs(graph) == count(graph).flops


@pytest.mark.parametrize("name", [n for n in ALL if n not in NOTHING])
def test_what_is_predicted_for_a_plan_is_what_the_cut_network_costs(name):
    model, example, graph = understood(name)
    plan = halves(graph)
    smaller = cut(model, graph, plan)
    predicted, found = count(graph, plan.counts()), count(trace(smaller, example))
    if any(isinstance(m, Rewritten) for m in smaller.modules()):  # lets go of activations earlier than its author did
        assert predicted.memory >= found.memory
        found = dataclasses.replace(found, memory=predicted.memory)
    assert predicted == found


@pytest.mark.parametrize(
    "depth, m1, thop, parameters",
    [(20, 40_551_040, None, None), (56, 125_485_696, 126_554_816, 853_018), (110, 252_887_680, None, None)],
)
def test_cifar_resnets_cost_what_the_literature_says(depth, m1, thop, parameters):
    """He et al. 2016; the thop figure is the one AutoBot (arXiv:2106.10917) reports for ResNet-56."""
    graph = trace(cifar_resnet.CifarResNet(depth), torch.empty(1, 3, 32, 32))
    assert macs(graph) == m1
    assert thop is None or macs(graph, convention="thop") == thop
    assert parameters is None or params(graph) == parameters


@pytest.mark.parametrize("name", [n for n in ALL if n not in NOTHING])
def test_a_unit_frees_what_its_share_says(name):
    _, _, graph = understood(name)
    for group in graph.groups.values():
        assert unit_macs(graph, group.name) == macs(graph) - macs(graph, {group.name: group.units - 1})


@pytest.mark.parametrize("name", ALL)
def test_parameters_and_bytes_are_those_of_the_module(name):
    model, _, graph = understood(name)
    tensors = {id(t): t for t in [*model.parameters(), *model.buffers()]}.values()
    assert params(graph) == sum(p.numel() for p in model.parameters())
    assert bytes_of(graph) == sum(t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize(
    "name", ["resnet", "mobilenet-v2", "densenet", "unet", "squeeze-excite", "inception", "plain-attention"]
)
def test_peak_memory_is_what_eager_really_holds(name):
    model, example, graph = understood(name)
    assert count(graph).memory == pytest.approx(measured_memory(model, example, inputs=False), rel=0.02)
