"""Zoo networks with their graphs, built once a test process."""

from functools import lru_cache

from torch import nn

from sartor.structure import Example, Graph, trace
from sartor.surgery import probe
from sartor.testing.zoo import ZOO


@lru_cache(maxsize=None)
def understood(name: str) -> tuple[nn.Module, Example, Graph]:
    """(model, example, graph with what can be cut in its class)."""
    case = ZOO[name].value
    model, example = case.build(), case.example()
    return model, example, probe(model, trace(model, example))
