"""The outcome of comparing a cut network with the original whose removed units are zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["exact", "partly", "not comparable"]


@dataclass(frozen=True)
class Gap:
    """How far the outputs of a network are from the expected ones."""

    error: float  # largest of all outputs, each relative to its largest value; inf where structure or integers differ
    outputs: int  # output tensors that were compared
    where: str = ""  # the output that differs most


@dataclass(frozen=True)
class Verdict:
    """What a cut network was compared in, before any repair, and how far it is from the zero-masked original.

    >>> Verdict(max_relative_error=2e-7, groups=5, mixing_groups=1).status
    'partly'
    """

    max_relative_error: float  # with the user's weights and inputs, over all outputs
    groups: int  # cut groups whose function was compared
    mixing_groups: int  # cut groups left out: an operator computes a statistic over their units
    tolerance: float = 1e-4  # of max_relative_error
    left_out: tuple[tuple[str, str], ...] = ()  # (group, why its function was not compared)
    tensors: int = 0  # tensors of the cut network that hold the kept units of the original, bit for bit
    outputs: int = 0  # output tensors compared, over all inputs
    examples: int = 0  # pairs of forwards compared: with redrawn weights, and with the user's
    redrawn_error: float | None = None  # the same error with redrawn weights; None: not compared
    redrawn_tolerance: float = 1e-7
    redrawn_precision: str = ""  # "float64", or the network's own where that does not run
    note: str = ""  # what was not compared besides groups, and why

    @property
    def status(self) -> Status:
        """ "exact": every cut group was compared; "partly": some were; "not comparable": none was."""
        if not self.groups:
            return "not comparable"
        return "partly" if self.mixing_groups else "exact"

    @property
    def passed(self) -> bool:
        """Whether something was compared and nothing that was compared differs by more than its tolerance."""
        redrawn = self.redrawn_error is None or self.redrawn_error <= self.redrawn_tolerance
        return self.groups > 0 and self.max_relative_error <= self.tolerance and redrawn

    def to_plain(self) -> dict[str, Any]:
        """As results hold it, under the key `proof`."""
        return {
            "passed": self.passed,
            "max_relative_error": self.max_relative_error,
            "groups": self.groups,
            "mixing_groups": self.mixing_groups,
            "tolerance": self.tolerance,
            "status": self.status,
            "left_out": [list(row) for row in self.left_out],
            "tensors": self.tensors,
            "outputs": self.outputs,
            "examples": self.examples,
            "redrawn_error": self.redrawn_error,
            "redrawn_tolerance": self.redrawn_tolerance,
            "redrawn_precision": self.redrawn_precision,
            "note": self.note,
        }
