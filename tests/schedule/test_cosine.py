import pytest
from hypothesis import given
from hypothesis import strategies as st

from sartor.errors import BadInput
from sartor.schedule import cosine, cosine_with_warmup

share = st.floats(0, 1)


@given(share, share)
def test_a_cosine_never_grows_and_stays_in_range(a, b):
    low, high = sorted((a, b))
    assert 1 >= cosine(low) >= cosine(high) >= 0


@given(share, share)
def test_warmup_rises_to_one_and_then_only_falls(progress, warmup):
    value = cosine_with_warmup(progress, warmup=warmup)
    assert 0 <= value <= 1
    assert cosine_with_warmup(warmup, warmup=warmup) == 1
    if progress < warmup:
        assert value == pytest.approx(progress / warmup)
    later = progress + (1 - progress) / 2
    if progress >= warmup:
        assert cosine_with_warmup(later, warmup=warmup) <= value + 1e-12


def test_ends():
    assert cosine_with_warmup(0.0, warmup=0.1) == 0
    assert cosine_with_warmup(0.0, warmup=0.0) == 1
    assert cosine_with_warmup(1.0, warmup=0.1) == 0
    assert cosine_with_warmup(1.0, warmup=1.0) == 1


@pytest.mark.parametrize("progress, warmup", [(-0.01, 0.1), (1.01, 0.1), (0.5, 1.5), (float("nan"), 0.1), (1.01, 1.0)])
def test_outside_the_unit_interval_is_an_error(progress, warmup):
    with pytest.raises(BadInput, match=r"\[0, 1\]"):
        cosine_with_warmup(progress, warmup=warmup)
