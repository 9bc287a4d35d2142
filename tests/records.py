"""A record to test readers of records with."""

from __future__ import annotations

from typing import Any

from sartor.run.record import AskedRow, JudgedQuality, Record, VerdictRow


def small_record(**changes: Any) -> Record:
    """The record of a run that cut nothing."""
    proof = VerdictRow(passed=True, max_relative_error=0.0, groups=1, mixing_groups=0, tolerance=1e-4)
    fields = {"model": "Net", "recipe": "l1", "status": "met", "budget": [], "quality": JudgedQuality(), "proof": proof}
    asked = AskedRow(budget="macs<=50%", recipe={})
    return Record(**{**fields, "counted": {}, "asked": asked, **changes})
