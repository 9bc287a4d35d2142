"""From the scores at each place of a group to one number a unit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sartor.errors import BadInput

Reduce = Literal["sum", "mean", "max", "producer"]
Normalise = Literal["none", "mean", "max", "rank", "macs"]
Among = Literal["layer", "group"]
REDUCTIONS: tuple[str, ...] = get_args(Reduce)
NORMALISATIONS: tuple[str, ...] = get_args(Normalise)


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """How scores are reduced to one number a unit, and made comparable across groups.

    reduce: over the tensors a unit occurs in (weights that write, read or scale it; biases and statistics are not
        read): "sum", "mean", "max", or "producer": the sum over those that write it. For activations, over the places
        where the group is read (or written, as the criterion says). A criterion that reads no writers (bn-scale) takes
        "producer" as "sum". With a sum, a unit that occurs in many places (a channel of a residual stream) weighs as
        much more.
    normalise: makes tensors and groups comparable, before the reduction: the scores that a tensor gives to the units of
        a group are left as they are ("none"), divided by their mean ("mean") or maximum ("max", both of absolute
        values), or replaced by rank / units ("rank", ties share their mean rank). "macs" leaves them as they are, and
        divides what comes out by the MACs that one unit of the group frees, relative to the mean group.
    per_cost: exponent e >= 0: scores are divided by (MACs one unit frees, relative to the mean group) ** e, so that of
        two equally important units the costly one goes first. "macs" is "none" with e = 1.
    among: with which units those criteria compare a unit that compare units at all (fpgm, chip, hrel, lamp, ...): with
        all units of its layer ("layer", as their papers say), or only with those of its group ("group"). The two differ
        where the units of one layer belong to several groups, as where a shortcut is padded with zero channels.
    """

    reduce: Reduce = "sum"
    normalise: Normalise = "mean"
    per_cost: float = 0.0
    among: Among = "layer"

    def __post_init__(self) -> None:
        _one_of("reduce", self.reduce, REDUCTIONS)
        _one_of("normalise", self.normalise, NORMALISATIONS)
        _one_of("among", self.among, get_args(Among))
        if not (math.isfinite(self.per_cost) and self.per_cost >= 0):
            raise BadInput(f"per_cost: expected a number >= 0; got {self.per_cost}")

    @property
    def cost_exponent(self) -> float:
        """The exponent of the cost, that of the normalisation "macs" included."""
        return self.per_cost + (self.normalise == "macs")


def _one_of(option: str, got: Any, known: tuple[str, ...]) -> None:
    if got not in known:
        raise BadInput(f"{option}: expected one of {', '.join(known)}; got {got!r}")
