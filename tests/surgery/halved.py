"""Shared by tests of single pitfalls: inputs, and a network that is cut in half and proved."""

from __future__ import annotations

import torch
from torch import nn

from sartor.structure import Graph, trace
from sartor.surgery import cut, probe, prove
from sartor.testing.plans import halves
from sartor.testing.zoo import randomise_

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
ROWS = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))


def made(model: nn.Module) -> nn.Module:
    """The model in evaluation mode with weights that are neither 0 nor 1."""
    torch.manual_seed(0)
    randomise_(model)
    return model.eval()


def frozen(graph: Graph) -> dict[str, str]:
    return {f.axis: f.reason for f in graph.frozen}


def cut_in_half(model: nn.Module, example: object) -> tuple[Graph, nn.Module]:
    """Halve every axis that can be cut, and prove the cut."""
    graph = probe(model, trace(model, example))
    plan = halves(graph)
    smaller = cut(model, graph, plan)
    prove(model, graph, plan, example, smaller=smaller)
    return graph, smaller
