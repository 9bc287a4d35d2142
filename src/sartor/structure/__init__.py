"""Understand a model: from a module and example inputs to its operators, their axes and the groups that can be cut."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from sartor.borrow import uncollected
from sartor.structure.example import Example
from sartor.structure.explanation import Explanation, explain
from sartor.structure.graph import Graph, Resolved, Site
from sartor.structure.other_inputs import masked_variants, several_examples
from sartor.structure.recorder import record, record_branches, record_training, record_variant
from sartor.structure.recording import Recording
from sartor.structure.rules import rule
from sartor.structure.solver import solve
from sartor.wrappers import unwrapped


def trace(model: nn.Module, example: Example, variants: Iterable[Recording] | None = None) -> Graph:
    """Understand a model from one forward in evaluation mode. The model is not changed.

    If some parameters are not used in evaluation (auxiliary heads), the forward in training mode is recorded as well.
    Where values that depend on weights decide how the forward goes on (early exits), or some parameters are still
    unused, the other branch of each such decision is recorded too.

    Args:
        model: any module; of a DataParallel or compiled one, the network inside is traced (see `sartor.wrappers`).
        example: a tensor, a tuple of positional arguments, or a dict of keyword arguments. A list holds several
            examples if the network takes each of them alone (see `other_inputs.several_examples`).
        variants: recordings of the same model on other inputs (another length, with a mask; see `record_variant`).
            Where it calls other operators on them, those are followed too. None: the other examples of a list, and
            the example with another mask (padded, left out, added) where the forward takes one.

    Raises:
        BadInput: TorchScript or something else that cannot be followed; says what to pass.
        CannotTrace: the forward fails on these inputs, or the model cannot be copied.
    """
    model = unwrapped(model).module
    with uncollected():  # garbage collection would walk the growing graph many times
        example, others, _ = several_examples(model, example)
        if variants is None:
            given = (record_variant(model, x) for x in others)
            variants = [*(r for r in given if r is not None), *masked_variants(model, example)]
        rec = record(model, example)
        training = lambda: record_training(model, example)
        return solve(rec, training, lambda: record_branches(model, example, rec), variants)


__all__ = [
    "Example",
    "Explanation",
    "Graph",
    "Resolved",
    "Site",
    "explain",
    "record",
    "record_variant",
    "rule",
    "solve",
    "trace",
]
