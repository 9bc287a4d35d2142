"""The proof of a network whose weights are masked: nothing is cut, dead weights are zero, all else is as it was."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed, uncollected
from sartor.errors import ProofFailed
from sartor.structure.example import Example, call
from sartor.structure.graph import Graph
from sartor.structure.model_copy import named_tensors
from sartor.surgery.delivered import check_delivered
from sartor.surgery.outputs import gap
from sartor.types import Plan, Verdict
from sartor.wrappers import unwrapped


@uncollected()
def prove_masked(
    model: nn.Module, graph: Graph, masks: Mapping[str, Tensor], example: Example, network: nn.Module
) -> Verdict:
    """Compare a delivered network with the trained one, and with its masks.

    Args:
        model: the trained network.
        graph: of it.
        masks: bool, by parameter; True = live.
        example: real inputs, a few samples.
        network: what is delivered.

    Returns:
        The verdict, in which a group is a masked matrix.

    Raises:
        ProofFailed: a tensor or an attribute differs from the trained network's, a dead weight is not zero, or outputs
            differ at all.
    """
    model, network = unwrapped(model).module, unwrapped(network).module
    held = check_delivered(model, graph, graph.resolve(Plan({}, "masks", graph.fingerprint)), network)
    tensors = {name: t for *_, name, t in named_tensors(network)}
    for name, mask in masks.items():
        if name not in tensors or tensors[name].shape != mask.shape:
            raise ProofFailed(f"masked network: it has no parameter {name!r} of shape {list(mask.shape)}")
        alive = int(tensors[name].detach().masked_fill(mask.to(tensors[name].device), 0).count_nonzero())
        if alive:
            raise ProofFailed(f"masked network: {alive} dead weights of {name!r} are not zero")
    with torch.no_grad(), borrowed(model), borrowed(network):
        found = gap(call(model, example), call(network, example))
    if found.error > 0:
        raise ProofFailed(
            f"masked network: {found.where or 'an output'} differs from the trained network's by {found.error:.2g}, "
            "with equal weights; does the forward draw random numbers in evaluation?"
        )
    return Verdict(found.error, len(masks), 0, tensors=held, outputs=found.outputs, examples=1)


__all__ = ["prove_masked"]
