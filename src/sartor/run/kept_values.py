"""Values of stages as plain values and tensors, and back: what comes from a file is checked against the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from sartor.allocate import Step
from sartor.errors import CorruptFile
from sartor.run.stages import Decision, Quality
from sartor.structure import Graph
from sartor.surgery.zero_clip import clip_, clips_of
from sartor.train.training_state import load_tensors_, tensors_of
from sartor.types import Plan, Scores

NOTHING: tuple[Callable[[Any], Any], Callable[[Any], Any]] = (lambda value: None, lambda raw: None)  # of no value


def quality_of(raw: Any) -> Quality:
    """The inverse of `list(quality)`."""
    val, test = (None if value is None else float(value) for value in raw)
    return Quality(val, test)


def scores_of(graph: Graph, raw: Any) -> Scores:
    """Scores of the groups of a graph.

    Raises:
        CorruptFile: they belong to another graph, or are not finite.
    """
    for name, units in raw.items():
        group = graph.groups.get(name)
        if group is None or not isinstance(units, Tensor) or units.shape != (group.units,):
            raise CorruptFile(f"scores: expected one number for each unit of the groups; {name!r} has others")
        if not bool(torch.isfinite(units).all()):
            raise CorruptFile(f"scores: expected finite numbers; group {name!r} has others")
    return dict(raw)


def plain_decision(decision: Decision) -> dict[str, Any]:
    """A decision as plain values."""
    return {"plan": decision.plan.to_json(), "trail": [asdict(step) for step in decision.trail]}


def decision_of(graph: Graph, raw: Any) -> Decision:
    """The inverse of `plain_decision`.

    Raises:
        CorruptFile, BadInput: it is no plan of this graph.
    """
    plan = Plan.from_json(raw["plan"])
    if plan.fingerprint != graph.fingerprint:
        raise CorruptFile("plan: expected one of this graph; it was made for another")
    return Decision(plan, tuple(Step(**step) for step in raw["trail"]))


def with_tensors(network: nn.Module, raw: Any) -> nn.Module:
    """The network with these parameters and buffers, in place.

    Raises:
        ValueError: they are those of another network; nothing has changed.
    """
    load_tensors_(network, raw)
    return network


def repaired_values(network: nn.Module) -> dict[str, Any]:
    """What a repair may change: parameters and buffers, and limits on rectifiers."""
    return {"tensors": tensors_of(network), "limits": {path: list(x) for path, x in clips_of(network).items()}}


def repaired(network: nn.Module, raw: Any) -> nn.Module:
    """The network with what `repaired_values` gave of it after its repair, in place.

    Raises:
        ValueError, BadInput: the values are those of another network.
    """
    limits = {str(path): tuple(map(float, x)) for path, x in raw["limits"].items()}
    return clip_(with_tensors(network, raw["tensors"]), limits)


__all__ = [
    "NOTHING", "decision_of", "plain_decision", "quality_of", "repaired", "repaired_values", "scores_of", "tensors_of",
    "with_tensors",
]  # fmt: skip
