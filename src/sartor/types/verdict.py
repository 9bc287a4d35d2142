"""The outcome of comparing a cut network with the original whose removed units are zero."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["exact", "partly", "not comparable"]


@dataclass(frozen=True)
class Verdict:
    """How far the cut network is from the zero-masked original, before any repair.

    >>> Verdict(max_relative_error=2e-7, groups=5, mixing_groups=1).status
    'partly'
    """

    max_relative_error: float  # over all outputs, relative to the largest output
    groups: int  # cut groups that were compared
    mixing_groups: int  # cut groups left out: an operator computes a statistic over their units
    tolerance: float = 1e-4

    @property
    def status(self) -> Status:
        """ "exact": every cut group was compared; "partly": some were; "not comparable": none was."""
        if not self.groups:
            return "not comparable"
        return "partly" if self.mixing_groups else "exact"

    @property
    def passed(self) -> bool:
        """Whether no group that was compared differs by more than the tolerance."""
        return self.max_relative_error <= self.tolerance

    def to_plain(self) -> dict[str, Any]:
        """As results hold it, under the key `proof`."""
        return {
            "passed": self.passed,
            "max_relative_error": self.max_relative_error,
            "groups": self.groups,
            "mixing_groups": self.mixing_groups,
            "tolerance": self.tolerance,
            "status": self.status,
        }
