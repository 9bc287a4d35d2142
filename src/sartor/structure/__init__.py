"""Structure: a model and example inputs in; operators with axes, and the groups that can be cut, out."""

from __future__ import annotations

from torch import nn

from sartor.borrow import uncollected
from sartor.structure.example import Example
from sartor.structure.explanation import Explanation, explain
from sartor.structure.graph import Graph, Resolved, Site
from sartor.structure.recorder import record, record_training
from sartor.structure.rules import rule
from sartor.structure.solver import solve


def trace(model: nn.Module, example: Example) -> Graph:
    """Understand a model from one forward in evaluation mode; it is neither changed nor computed with.

    Where evaluation leaves parameters alone (auxiliary heads), the forward in training mode is looked at too.

    Args:
        model: any module.
        example: a tensor, a tuple of positional arguments, or a dict of keyword arguments.

    Raises:
        CannotTrace: the forward cannot be followed on these inputs.
    """
    with uncollected():  # a graph being built makes it walk again and again
        return solve(record(model, example), lambda: record_training(model, example))


__all__ = ["Example", "Explanation", "Graph", "Resolved", "Site", "explain", "record", "rule", "solve", "trace"]
