"""What accompanies every stage of a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from sartor.export.delivery import Delivery
from sartor.train.checkpoint import Checkpoints
from sartor.types import SILENT, Judge, Listener


@dataclass(frozen=True)
class Context:
    """What counts as good, the seed of everything random, the listener, and the files that are delivered."""

    judge: Judge = field(default_factory=Judge)
    seed: int = 0
    listener: Listener = SILENT
    delivery: Delivery | None = None  # None: nothing is delivered, so latency is timed through the quick exporter only
    checkpoints: Checkpoints | None = None  # of the training; None: it is kept in memory only


DEFAULTS = Context()
