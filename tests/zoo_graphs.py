"""Zoo networks with their graphs, built once a test process."""

from functools import cache

from torch import nn

from sartor.structure import Example, Graph, trace
from sartor.surgery import probe
from sartor.testing.zoo import ZOO


@cache
def understood(name: str) -> tuple[nn.Module, Example, Graph]:
    """(model, example, graph with what can be cut in its class)."""
    case = ZOO[name].value
    model, example = case.build(), case.example()
    return model, example, probe(model, trace(model, example))
