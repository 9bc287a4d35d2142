"""The verdict of a proof: what was compared, and what was not."""

from __future__ import annotations

import pytest

from sartor.types import Verdict


@pytest.mark.parametrize(
    ("groups", "mixing", "status"),
    [(3, 0, "exact"), (3, 1, "partly"), (0, 2, "not comparable"), (0, 0, "not comparable")],
)
def test_the_status_follows_from_the_groups_that_were_compared(groups: int, mixing: int, status: str):
    verdict = Verdict(1e-7, groups, mixing)
    assert verdict.status == status and verdict.passed
    assert verdict.to_plain() == {
        "passed": True,
        "max_relative_error": 1e-7,
        "groups": groups,
        "mixing_groups": mixing,
        "tolerance": 1e-4,
        "status": status,
    }


def test_a_difference_above_the_tolerance_does_not_pass():
    assert not Verdict(1e-3, 1, 0).passed and not Verdict(float("nan"), 1, 0).passed
