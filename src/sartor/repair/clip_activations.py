"""Limits on rectifiers from what calibration inputs reach, so that faults in stored weights do less harm.

Source: Hoang et al. 2020 (FT-ClipAct), arXiv:1912.00941, algorithm 1, steps 1 and 2. There the limits are then lowered
layer by layer by the accuracy under faults; here they stay at the largest value, so that the network computes the same
as before on inputs like those of the calibration.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn

from sartor.borrow import borrowed
from sartor.structure import Graph
from sartor.structure.example import Example, call
from sartor.surgery.zero_clip import clip_, largest_read, rectifiers
from sartor.types import SILENT, Listener


def clipped(
    network: nn.Module, graph: Graph, inputs: Sequence[Example], margin: float = 1.01, listener: Listener = SILENT
) -> tuple[nn.Module, dict[str, int]]:
    """A copy whose rectifiers give zero above `margin` times the largest value that they read for the inputs.

    Args:
        network: the graph's, or cut from it; may have limits already, which are measured anew.
        graph: names the modules that call rectifiers.
        inputs: calibration inputs, on the network's device.
        margin: >= 1.
        listener: is told if there is nothing to clip.

    Returns:
        The copy, and {"modules", "rectifiers"}, how many have a limit. A rectifier that no input reaches has none; a
        module that is called at several places has one limit for all of them.
    """
    counts = rectifiers(graph, network)
    if not counts:
        listener.note("activations were not clipped: no rectifier (relu, relu6) is called by a module's own forward")
        return network, {"modules": 0, "rectifiers": 0}
    infinite = {path: (float("inf"),) * n for path, n in counts.items()}
    seen = clip_(copy.deepcopy(network), infinite, record=True)
    with borrowed(seen), torch.no_grad():
        for x in inputs:
            call(seen, x)
        largest = largest_read(seen)  # the block restores what a forward keeps in its modules
    limits = {path: _limits(values, margin) for path, values in largest.items()}
    found = sum(x != float("inf") for values in limits.values() for x in values)
    return clip_(copy.deepcopy(network), limits), {"modules": len(limits), "rectifiers": found}


def _limits(largest: Sequence[float], margin: float) -> tuple[float, ...]:
    """One limit for each rectifier; none behind the last one that was reached."""
    limits = [margin * value if value > 0 else float("inf") for value in largest]
    while len(limits) > 1 and limits[-1] == float("inf"):
        limits.pop()
    return tuple(limits)
