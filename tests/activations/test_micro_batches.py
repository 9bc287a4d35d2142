"""Passes over data in parts: how much is kept, and that the parts change nothing."""

import math

import torch
from torch import nn

from sartor import trace
from sartor.activations.grams import GramOptions, Grams
from sartor.activations.micro_batches import alive_bytes, parts, samples_reused, samples_within
from sartor.repair.original import Original
from sartor.repair.ridge import RidgeOptions, refit_consumers_
from sartor.surgery import cut
from sartor.types import Plan

CPU = torch.device("cpu")


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 20),
    ).eval()  # fmt: skip


def test_bytes_alive_count_what_is_held():
    graph = trace(net(), torch.zeros(1, 3, 10, 10))
    first = 8 * 10 * 10 * 4
    assert alive_bytes(graph.ops)[0] == first
    end = len(graph.ops) - 1
    everything = alive_bytes(graph.ops, {id(v): end for op in graph.ops for v in op.outputs})
    assert everything == sorted(everything) and everything[end] >= 3 * first
    assert samples_within(graph, CPU, 100 * first, gradients=True) < samples_within(graph, CPU, 100 * first)
    assert samples_within(graph, CPU, 1) == 1


def test_a_forward_on_a_cpu_reuses_memory():
    graph = trace(net(), torch.zeros(1, 3, 10, 10))
    largest = max(math.prod(v.shape) for op in graph.ops for v in op.outputs)
    assert samples_reused(graph.ops, 1, CPU) == (16 << 20) // (4 * largest)
    assert samples_within(graph, CPU, 1 << 40) == samples_reused(graph.ops, 1, CPU)
    assert samples_within(graph, torch.device("cuda"), 1 << 40) > samples_reused(graph.ops, 1, CPU)


def test_parts_are_the_batch_in_order():
    batch = {"x": torch.arange(12).reshape(6, 2), "scale": torch.tensor(2.0)}
    split = parts(batch, 4)
    assert [len(p["x"]) for p in split] == [3, 3]
    assert torch.equal(torch.cat([p["x"] for p in split]), batch["x"])
    assert all(p["scale"] == 2 for p in split)


def test_grams_in_parts_are_those_of_the_whole():
    model, x = net(), torch.randn(16, 3, 10, 10)
    graph = trace(model, x[:1])
    whole, split = (Grams(graph, model, [x], options=GramOptions(rows=10**6, memory=m)) for m in (2**30, 2**16))
    assert samples_within(graph, CPU, 2**15) < 16
    for name in graph.groups:
        for a, b in zip(whole.reads(name), split.reads(name), strict=True):
            assert torch.allclose(a.gram, b.gram, rtol=1e-4, atol=1e-6)


def test_a_refit_under_little_memory_repairs_as_well():
    model, x = net(), torch.randn(32, 3, 10, 10)
    graph = trace(model, x[:1])
    plan = Plan({n: tuple(range(g.units // 2)) for n, g in graph.groups.items()}, "test", graph.fingerprint)
    errors = []
    for memory in (2**30, 2**18):
        smaller = cut(model, graph, plan)
        options = RidgeOptions(memory=memory)
        refit_consumers_(smaller, Original(model, graph, plan), [x], options=options)
        errors.append(float((smaller(x) - model(x)).detach().norm()))
    assert errors[1] < 1.5 * errors[0] + 1e-6
