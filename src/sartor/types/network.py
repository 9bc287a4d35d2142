"""What a network consists of: groups of units, the tensors they occur in, and what cannot be cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Role = Literal["out", "in", "norm", "buffer", "other"]
Scores = Mapping[str, Tensor]  # group name -> [units]; larger = keep
Counts = Mapping[str, int]  # group name -> units kept; a group not named is whole


@dataclass(frozen=True)
class Member:
    """One place where the units of a group occur.

    `role` says what the dimension does there: "out" the operator writes these units, "in" it reads and sums over them,
    "norm" scales them one by one, "buffer" statistics of them, "other" anything else.
    """

    tensor: str  # name in named_parameters() or named_buffers()
    dim: int
    role: Role


@dataclass(frozen=True)
class Group:
    """Units that live or die together."""

    name: str  # "<tensor>:<dim>" of its first writer, with "#k" when one dimension holds several groups
    kind: str  # what its units are: a key of sartor.structure.kinds.KINDS
    units: int
    members: tuple[Member, ...]
    mixes: str | None = None  # why cutting changes the other units (a layer norm, say); None: cutting is exact


@dataclass(frozen=True)
class Reason:
    """Why an axis cannot be cut, or why cutting it changes the other units. Code decides by `kind`.

    `sartor.structure.reasons.sentence` gives the text that a person reads.
    """

    kind: str  # a key of sartor.structure.reasons.SENTENCES; "rule": the text of a rule of your own
    op: str = ""  # the operator that gives the reason, or operator and module ("add in layer1"); "" where none does
    module: str = ""  # path of the module that calls the operator, "" for the model itself
    detail: str = ""  # what the kind leaves open: two sizes, a step, a text


@dataclass(frozen=True)
class Frozen:
    """A dimension of a parameter that cannot be cut, and why, in plain words."""

    axis: str  # "<tensor>:<dim>"
    size: int
    reason: str  # a sentence for people; nothing is decided by it
