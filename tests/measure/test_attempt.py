"""What an attempt swallows, and what it never does."""

import pytest

from sartor.errors import SartorError, TargetLost
from sartor.measure.attempt import Attempt


def test_the_named_errors_are_kept_and_all_others_pass():
    with Attempt(SartorError) as attempt:
        raise SartorError("no")
    assert str(attempt.error) == "no"
    with Attempt(SartorError) as attempt:
        pass
    assert attempt.error is None
    with pytest.raises(ValueError, match="mine"), Attempt(SartorError):
        raise ValueError("mine")


def test_a_lost_machine_always_passes():
    for kinds in ((SartorError,), (Exception,), (TargetLost,)):
        with pytest.raises(TargetLost), Attempt(*kinds):
            raise TargetLost("gone")
