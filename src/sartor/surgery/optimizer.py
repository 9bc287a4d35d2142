"""Carry the state of an optimiser over a cut: momenta and second moments are sliced like their parameters."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sartor.errors import BadInput
from sartor.structure.model_copy import named_tensors
from sartor.surgery.edits import Edits, sliced

AnyOptimizer = TypeVar("AnyOptimizer", bound=Optimizer)


def carry_optimizer(optimizer: AnyOptimizer, model: nn.Module, smaller: nn.Module, edits: Edits) -> AnyOptimizer:
    """An optimiser of the same class for the cut model, with its state carried over.

    Args:
        optimizer: made for `model`; not changed.
        model: before the cut.
        smaller: after the cut.
        edits: what was cut.

    Returns:
        The options of each parameter group are kept. State tensors of a parameter's shape are sliced, others copied.

    Raises:
        BadInput: the optimiser holds a parameter that is not the model's.
    """
    names = {id(t): name for *_, name, t in named_tensors(model)}
    new = {name: t for *_, name, t in named_tensors(smaller)}
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        for p in group["params"]:
            if id(p) not in names:
                raise BadInput(f"the optimiser holds a parameter of shape {tuple(p.shape)} that is not the model's")
        groups.append({**group, "params": [new[names[id(p)]] for p in group["params"]]})
    known = inspect.signature(
        type(optimizer)
    ).parameters  # some optimisers have defaults that their constructor does not take
    carried = type(optimizer)(groups, **{k: v for k, v in optimizer.defaults.items() if k in known})
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p in optimizer.state:
                keep = edits.slices.get(names[id(p)], {})
                carried.state[new[names[id(p)]]] = {
                    k: _state(v, p, keep) if isinstance(v, Tensor) else v for k, v in optimizer.state[p].items()
                }
    return carried


def _state(value: Tensor, parameter: Tensor, keep: Any) -> Tensor:
    if value.shape == parameter.shape and value.dim():
        return sliced(value, keep) if keep else value.detach().clone()
    return torch.clone(value.detach())
