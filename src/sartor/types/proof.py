"""The outcome of comparing a cut network with its original."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Proof:
    """Cut model against silenced original, before any repair."""

    passed: bool
    max_relative_error: float
    groups: int  # cut groups checked against the silenced original
    mixing_groups: int  # cut groups that an operator mixes: left out of the exact comparison, cut all the same
    tolerance: float = 1e-4
