"""How a run is carried out, and what a finished run is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.analysis import Chosen
from sartor.export.delivery import Delivery
from sartor.run.record import HOLDS, Record
from sartor.structure import Example
from sartor.surgery import Edits
from sartor.types import SILENT, Listener, Plan, Verdict


@dataclass(frozen=True)
class Options:
    """How a run is carried out: where, with which seed, and what is written."""

    example: Example | None = None  # None: the first batch of the data
    out: str | Path | None = None  # the run folder; None: nothing is written
    seed: int | None = None  # None: the recipe's
    device: torch.device | str | None = None  # None: where the model lies
    listener: Listener = SILENT
    model_name: str | None = None  # for the record; None: the name of the class
    notes: tuple[str, ...] = ()  # what was decided before the run began
    keep_better: bool = False  # deliver the repaired network if training makes validation quality worse
    analyse: tuple[Chosen, ...] = ()  # probes on the original and on the fitted network, for the record


@dataclass(frozen=True)
class Outcome:
    """A finished run."""

    model: nn.Module
    original: nn.Module
    example: Example
    plan: Plan
    edits: Edits
    verdict: Verdict
    record: Record
    delivery: Delivery  # the exported files that were timed
    best_state: Mapping[str, Any] | None = None  # of the epoch validation would choose; the model holds the last

    @property
    def met(self) -> bool:
        """Whether every limit and the quality floor hold, or are missed by less than the measurement can tell."""
        return self.record.status in HOLDS


__all__ = ["Options", "Outcome"]
