"""What accompanies every stage of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from sartor.types import SILENT, Judge, Listener


@dataclass(frozen=True)
class Context:
    """What counts as good, the seed of everything random, and the listener."""

    judge: Judge = field(default_factory=Judge)
    seed: int = 0
    listener: Listener = SILENT


DEFAULTS = Context()
