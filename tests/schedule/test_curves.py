"""Claims over every curve, and the ends that papers state."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sartor.errors import BadInput
from sartor.schedule import CURVES, between, cosine_regrow, one_cycle, one_shot, stage_value, steps, within

share = st.floats(0, 1)
curves = st.sampled_from(list(CURVES.values()))


@given(curves, share, share)
def test_a_curve_never_decreases_and_stays_in_range(curve, a, b):
    low, high = sorted((a, b))
    assert 0 <= curve(low) <= curve(high) <= 1


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_ends_at_exactly_one(name):
    assert CURVES[name](1.0) == 1.0


@pytest.mark.parametrize("name", ["linear", "cubic", "steps"])
def test_these_curves_start_at_exactly_zero(name):
    assert CURVES[name](0.0) == 0.0


@given(curves, st.floats(0, 1), st.floats(0, 1))
@example(CURVES["cubic"], 0.1, 0.7)
def test_the_last_sparsity_is_met_exactly_whatever_the_curve(curve, first, last):
    assert between(first, last, curve(1.0)) == last
    assert between(first, last, 0.0) == first


def test_one_cycle_has_the_values_of_its_formula():
    assert one_cycle(0.0) == pytest.approx((1 + math.exp(-9)) / (1 + math.exp(5)))
    assert one_cycle(0.5) == pytest.approx((1 + math.exp(-9)) / (1 + math.exp(-2)))
    assert between(0.2, 0.9, one_cycle(1.0)) == 0.9


@given(st.integers(1, 30), share)
def test_steps_have_their_number_of_values(count, progress):
    values = {steps(i / 1000, count=count) for i in range(1001)}
    assert len(values) == count + 1 and steps(1.0, count=count) == 1.0
    assert steps(progress, count=count) >= progress


@given(share, share)
def test_one_shot_switches_once(progress, at):
    assert one_shot(progress, at=at) == (1.0 if progress >= at else 0.0)


@given(share, share, share)
def test_a_part_of_the_run_has_exact_ends(progress, a, b):
    start, end = sorted((a, b))
    value = within(progress, start, end)
    assert 0 <= value <= 1
    assert value == 1 if progress >= end else value < 1 or math.isclose(progress, end)
    assert within(end, start, end) == 1 and (start == end or within(start, start, end) == 0)


@given(share, share, st.floats(0, 1), st.floats(0.01, 1))
def test_regrowth_falls_to_exactly_zero(a, b, first, until):
    low, high = sorted((a, b))
    assert first >= cosine_regrow(low, first=first, until=until) >= cosine_regrow(high, first=first, until=until) >= 0
    assert cosine_regrow(0.0, first=first, until=until) == first
    assert cosine_regrow(until, first=first, until=until) == cosine_regrow(1.0, first=first, until=until) == 0


def test_a_stage_begins_at_its_boundary():
    boundaries, values = (90 / 160, 120 / 160), (0.92, 0.91, 0.9)
    epochs = (0, 89, 90, 119, 120, 160)
    found = [stage_value(e / 160, boundaries=boundaries, values=values) for e in epochs]
    assert found == [0.92, 0.92, 0.91, 0.91, 0.9, 0.9]


@pytest.mark.parametrize(
    "call",
    [
        lambda: CURVES["cubic"](1.1),
        lambda: CURVES["linear"](float("nan")),
        lambda: one_cycle(0.5, alpha=0.0),
        lambda: steps(0.5, count=0),
        lambda: one_shot(0.5, at=2.0),
        lambda: within(0.5, 0.7, 0.2),
        lambda: cosine_regrow(0.5, first=-0.1, until=0.5),
        lambda: cosine_regrow(1.5, first=0.1, until=0.5),
        lambda: stage_value(0.5, boundaries=(0.5,), values=(1.0,)),
        lambda: stage_value(0.5, boundaries=(0.5, 0.5), values=(1.0, 2.0, 3.0)),
        lambda: stage_value(-0.5, boundaries=(), values=(1.0,)),
    ],
)
def test_values_out_of_range_are_refused(call):
    with pytest.raises(BadInput, match="expected"):
        call()
