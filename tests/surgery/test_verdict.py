"""The verdict of a proof: what was compared, and what was not."""

from __future__ import annotations

import pytest

from sartor.run.record import VerdictRow
from sartor.types import Verdict


@pytest.mark.parametrize(
    ("groups", "mixing", "status"),
    [(3, 0, "exact"), (3, 1, "partly"), (0, 2, "not comparable"), (0, 0, "not comparable")],
)
def test_the_status_follows_from_the_groups_that_were_compared(groups: int, mixing: int, status: str):
    verdict = Verdict(1e-7, groups, mixing)
    assert verdict.status == status and verdict.passed is bool(groups)
    plain = verdict.to_plain()
    assert plain["status"] == status and plain["passed"] is bool(groups)
    assert VerdictRow(**plain).model_dump() == {**plain, "left_out": []}


def test_a_difference_above_the_tolerance_does_not_pass():
    assert not Verdict(1e-3, 1, 0).passed and not Verdict(float("nan"), 1, 0).passed
    assert not Verdict(0.0, 1, 0, redrawn_error=1e-6).passed


def test_a_verdict_recorded_before_weights_were_redrawn_can_be_read():
    row = VerdictRow(passed=True, max_relative_error=1e-7, groups=2, mixing_groups=0, tolerance=1e-4)
    assert row.status is None and row.redrawn_error is None and row.tensors is None
