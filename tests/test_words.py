"""The words that every room speaks: values, budgets, numbers with units, phone books, seeds, borrowed models."""

from __future__ import annotations

import builtins
import dataclasses
import json
import math
import random
import statistics
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from sartor import errors
from sartor.borrow import borrowed
from sartor.budget import parse_budget, show_budget
from sartor.errors import BadInput, CorruptFile, MissingExtra, SartorError, UnknownName
from sartor.registry import Registry
from sartor.seed import seed_everything, seeded
from sartor.types import (
    METRICS,
    Budget,
    Comparison,
    Counted,
    Criterion,
    FineTune,
    Global,
    Group,
    Latency,
    Limit,
    Member,
    Plan,
    Recipe,
    Target,
    to_plain,
)
from sartor.units import KINDS, parse_quantity, show_bytes, show_count, show_percent, show_seconds

TARGETS = ("eager-cpu", "onnxruntime-cpu", "onnxruntime-cpu:threads=1,batch=8,dtype=float32")
shares = st.integers(1, 100).map(lambda n: n / 100)
units_kept = st.sets(st.integers(0, 60), min_size=1).map(lambda s: tuple(sorted(s)))
plans = st.builds(Plan, st.dictionaries(st.text(min_size=1), units_kept), st.text(), st.text())


def relative_limits() -> st.SearchStrategy[Limit]:
    target = st.sampled_from(TARGETS)
    counted = st.builds(Limit, st.sampled_from([m for m in METRICS if m != "latency"]), shares, st.just(True))
    return counted | st.builds(Limit, st.just("latency"), shares, st.just(True), target)


def one_of_each(limits: list[Limit]) -> bool:
    return len({(limit.metric, limit.target) for limit in limits}) == len(limits)


budgets = st.builds(
    Budget,
    st.lists(relative_limits(), min_size=1, max_size=5).filter(one_of_each).map(tuple),
    st.none() | st.integers(0, 99).map(lambda n: n / 10),
)


# units


@given(st.floats(0, 14).map(lambda x: round(10**x)), st.floats(-5, 3).map(lambda x: 10**x))
def test_a_shown_number_reads_back(count: int, seconds: float) -> None:
    """To the digits shown: three for counts and sizes, at least two for durations."""
    assert parse_quantity(show_count(count), "count") == (pytest.approx(count, rel=0.006), False)
    assert parse_quantity(show_bytes(count), "bytes") == (pytest.approx(count, rel=0.006), False)
    assert parse_quantity(show_seconds(seconds), "seconds") == (pytest.approx(seconds, rel=0.06), False)


KNOWN = {
    "count": {"12": 12, "1_000": 1000, "1.5e3": 1500, "1.5 M": 1.5e6, "2G": 2e9},
    "bytes": {"800": 800, "800 kB": 8e5, "1KiB": 1024, "1 MiB": 1048576, "2GiB": 2147483648},
    "seconds": {"4ms": 0.004, "250 us": 2.5e-4, "250µs": 2.5e-4, "2s": 2},
}


@pytest.mark.parametrize(("kind", "text"), [(kind, text) for kind, known in KNOWN.items() for text in known])
def test_known_numbers(kind: str, text: str) -> None:
    assert parse_quantity(text, kind) == (pytest.approx(KNOWN[kind][text]), False)


@given(st.integers(1, 10**6), st.sampled_from([(k, u) for k, units in KINDS.items() for u in units if u]))
def test_units_scale(number: int, kind_unit: tuple[str, str]) -> None:
    kind, unit = kind_unit
    for text in (f"{number}{unit}", f" {number} {unit.upper() if unit.isascii() else unit} "):
        assert parse_quantity(text, kind) == (pytest.approx(number * KINDS[kind][unit]), False)


@given(shares, st.sampled_from(list(KINDS)))
def test_shares_read_the_same_for_every_kind(share: float, kind: str) -> None:
    assert parse_quantity(show_percent(share, 3), kind) == (pytest.approx(share), True)


@given(st.text(), st.sampled_from(list(KINDS)))
@example("1.2.3", "count")
@example("1_2._3", "count")
@example("-5", "count")
@example("4", "seconds")
@example("٣", "count")
def test_any_text_is_a_number_or_bad_input(text: str, kind: str) -> None:
    try:
        value, relative = parse_quantity(text, kind)
    except BadInput as e:
        assert "expected" in str(e) and "got" in str(e)
    else:
        assert value >= 0 and isinstance(relative, bool)


# budget


@given(budgets)
def test_a_budget_survives_being_written(budget: Budget) -> None:
    assert parse_budget(show_budget(budget)) == budget
    assert parse_budget(budget) is budget


@given(budgets)
def test_blanks_and_case_of_the_metric_do_not_matter(budget: Budget) -> None:
    text = show_budget(budget)
    assert parse_budget(text.replace("<=", "  ≤ ").replace(", ", " ,  ")) == budget
    assert parse_budget(text.replace("macs", "MACs").replace(" @ ", "@")) == budget


@given(st.text(alphabet="macsdroplatencyq<=>≤@%., 0123456789:-ek") | st.text())
@example("macs<=1.2.3")
@example("drop<=nan, macs<=1")
@example("macs<=1e999")
@example("macs<=0%")
@example(",,,")
def test_any_text_is_a_budget_or_a_sentence(text: str) -> None:
    try:
        budget = parse_budget(text)
    except SartorError as e:
        assert str(e)
    else:
        assert budget.limits


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected text such as"),
        ("macs", "metric<=limit"),
        ("macs=<50%", "write 'macs<=50%'"),
        ("macs>=50%", "write 'macs<=50%'"),
        ("mac<=50%", "Did you mean 'macs'"),
        ("macs<=120%", "at most 100 %"),
        ("macs<=0", "positive number"),
        ("macs<=few", "200k"),
        ("latency<=4", "add the target"),
        ("latency<=4 @ eager-cpu", "4ms"),
        ("macs<=50% @ eager-cpu", "only latency"),
        ("macs<=50%, macs<=40%", "twice"),
        ("drop<=0.5", "at least one limit"),
        ("macs<=50%, drop<=some", "points of quality"),
        ("macs<=50%, drop<=-1", "points >= 0"),
        ("macs<=50%, drop<=1, drop<=2", "twice"),
    ],
)
def test_a_wrong_budget_says_what_to_write(text: str, says: str) -> None:
    with pytest.raises(SartorError, match=says):
        parse_budget(text)


def test_a_budget_of_every_kind() -> None:
    text = "latency<=4ms @ eager-cpu:threads=1,batch=8, macs<=50%, params<=200k, bytes<=1MB, memory<=80%, drop<=0.5"
    budget = parse_budget(text)
    assert [limit.metric for limit in budget.limits] == ["latency", "macs", "params", "bytes", "memory"]
    assert budget.limits[0] == Limit("latency", 0.004, False, "eager-cpu:threads=1,batch=8")
    assert [limit.at_most for limit in budget.limits[2:4]] == [200e3, 1e6]
    assert budget.max_drop == 0.5


# types


@given(plans)
def test_a_plan_survives_json(plan: Plan) -> None:
    assert Plan.from_json(plan.to_json()) == plan
    assert plan.counts() == {name: len(kept) for name, kept in plan.keep.items()}


@given(plans)
def test_a_plan_has_one_group_a_line(plan: Plan) -> None:
    lines = [line for line in plan.to_json().splitlines() if line.startswith("    ")]
    assert len(lines) == len(plan.keep)


@pytest.mark.parametrize("kept", [(), (1, 1), (2, 1), (-1, 0)])
def test_a_plan_refuses_what_is_not_sorted_unique_and_non_empty(kept: tuple[int, ...]) -> None:
    with pytest.raises(BadInput, match="group 'a'"):
        Plan({"a": kept}, "me", "f")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.text() | json_values.map(json.dumps))
@example('{"keep": {"a": ["x"]}, "made_by": "m", "fingerprint": "f"}')
@example('{"keep": {"a": [0.5, 1.5]}, "made_by": "m", "fingerprint": "f"}')
@example('{"keep": {"a": "123"}, "made_by": "m", "fingerprint": "f"}')
@example('{"keep": {"a": []}, "made_by": "m", "fingerprint": "f"}')
def test_any_other_text_is_not_a_plan(text: str) -> None:
    with pytest.raises((CorruptFile, BadInput)):
        Plan.from_json(text)


@given(st.lists(st.tuples(st.floats(1e-6, 10), st.floats(1e-6, 10)), min_size=1, max_size=60))
def test_a_comparison_is_between_its_pairs(pairs: list[tuple[float, float]]) -> None:
    target = Target("eager")
    before, after = (Latency(seconds, 3, target) for seconds in zip(*pairs))
    comparison = Comparison(before, after)
    low, high = comparison.interval
    assert min(comparison.ratios) <= low <= comparison.ratio <= high <= max(comparison.ratios)
    assert comparison.ratios == tuple(b / a for a, b in pairs)
    assert before.median_s == statistics.median(before.seconds) and before.iqr_s >= 0


@pytest.mark.parametrize("n", [6, 10, 25, 31, 60, 100, 101, 400])
def test_the_interval_covers_the_true_median_at_least_95_times_in_100(n: int) -> None:
    """Sample k of n lies below the median with binomial probability; the interval is symmetric in ranks."""
    rising = Latency(tuple(float(i) for i in range(n)), 0, Target("eager"))
    low, high = Comparison(Latency((1.0,) * n, 0, Target("eager")), rising).interval
    below = [math.comb(n, k) / 2**n for k in range(n + 1)]
    assert low + high == n - 1
    assert 0.95 <= sum(below[int(low) + 1 : int(high) + 1]) <= 0.999


def test_counted_and_target_names() -> None:
    counted = Counted(macs=10, params=2, bytes=8, memory=4, weights=1)
    assert counted.flops == 20 and [counted.get(m) for m in METRICS if m != "latency"] == [10, 20, 2, 8, 4, 1]
    assert Target("onnxruntime").name == "onnxruntime-cpu"


@pytest.mark.parametrize(
    ("kind", "field", "wrong"),
    [
        (FineTune, "epochs", -1),
        (FineTune, "lr", 0.0),
        (FineTune, "lr", float("nan")),
        (FineTune, "optimizer", "adam"),
        (FineTune, "precision", "float64"),
        (FineTune, "warmup", 1.5),
        (FineTune, "distill", -0.1),
        (FineTune, "temperature", 0.0),
        (Global, "floor", 1.0),
        (Global, "round_to", 0),
        (Criterion, "reduce", "median"),
        (Criterion, "normalise", "l2"),
        (Recipe, "calibration", 0),
        (Criterion, "criterion", 3),
    ],
)
def test_an_option_out_of_range_is_named(kind: type, field: str, wrong: object) -> None:
    with pytest.raises(BadInput, match=rf"field '{field}': expected .*; got"):
        kind(**{field: wrong})


@given(plans, budgets)
def test_values_are_frozen_and_become_plain(plan: Plan, budget: Budget) -> None:
    group = Group("a:0", "channels", 4, (Member("a", 0, "out"),))
    for value in (plan, budget, group, Recipe(), Target("eager"), Counted(1, 2, 3, 4)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            value.name = 1  # type: ignore[misc, union-attr]
        json.dumps(to_plain(value), allow_nan=False)
    plain = to_plain({"t": torch.tensor([1.0]), "x": float("nan"), "f": show_count, "s": {1}})
    assert plain == {"t": [1.0], "x": None, "f": "show_count", "s": [1]}


# errors and registry


def test_every_error_is_ours_and_a_builtin() -> None:
    ours = [
        e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, SartorError) and e is not SartorError
    ]
    assert len(ours) >= 8
    for kind in ours:
        assert any(b is getattr(builtins, b.__name__, None) and b is not Exception for b in kind.__mro__[1:-3]), kind


def test_a_missing_extra_names_the_command() -> None:
    assert "pip install 'sartor[onnx]'" in str(MissingExtra("onnx", "onnx", "exporting"))


names = st.lists(st.text(min_size=1), min_size=1, unique=True)


@given(names)
def test_a_registry_gives_what_was_entered_in_order(entered: list[str]) -> None:
    book: Registry[int] = Registry("thing")
    for i, name in enumerate(entered):
        assert book.add(name, i, source="s") == i
    assert list(book) == sorted(entered) == [e.name for e in book.entries()] and len(book) == len(entered)
    assert all(name in book and book[name].value == i for i, name in enumerate(entered))
    with pytest.raises(BadInput, match="already registered"):
        book.add(entered[0], 0, source="s")


@given(names, st.text())
def test_an_unknown_name_says_what_is_known(entered: list[str], asked: str) -> None:
    book: Registry[int] = Registry("thing")
    for name in entered:
        book.add(name, 0, source="s")
    if asked not in entered:
        with pytest.raises(UnknownName) as caught:
            book[asked]
        text = str(caught.value)
        assert text.startswith("no thing is called") and any(repr(n) in text or n in text for n in entered)


def test_a_registered_function_stays_a_function_and_is_described() -> None:
    book: Registry[Any] = Registry("criterion")

    @book.register("l1", source="a paper", needs=("weight",))
    def l1() -> int:
        """Sum of magnitudes.

        More.
        """
        return 1

    entry = book["l1"]
    assert l1() == 1 and entry.value is l1
    assert (entry.source, entry.summary, entry.traits) == ("a paper", "Sum of magnitudes.", {"needs": ("weight",)})


# seed and borrow


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@given(st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_inside_a_seed_numbers_repeat_and_outside_nothing_moved(seed: int, outer: int) -> None:
    seed_everything(outer)
    expected = draw(), draw()
    seed_everything(outer)
    first = draw()
    with seeded(seed):
        inside = draw()
        with pytest.raises(RuntimeError), seeded(seed):
            assert draw() == inside
            raise RuntimeError
    assert (first, draw()) == expected
    with seeded(seed):
        assert draw() == inside


@given(st.lists(st.booleans(), min_size=4, max_size=4), st.booleans(), st.booleans())
def test_a_borrowed_model_comes_back_as_it_was(modes: list[bool], training: bool, fails: bool) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Dropout()))
    for module, mode in zip(model.modules(), modes):
        module.training = mode
    calls: list[int] = []
    try:
        with borrowed(model, training=training) as hooks:
            assert all(m.training is training for m in model.modules())
            hooks.append(model[0].register_forward_hook(lambda *_: calls.append(1)))
            model(torch.ones(1, 2))
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    model(torch.ones(1, 2))
    assert [m.training for m in model.modules()] == modes and len(calls) == 1


def test_the_package_exports_every_error_that_it_raises() -> None:
    import sartor

    raised = {n for n, e in vars(errors).items() if isinstance(e, type) and issubclass(e, SartorError)}
    assert raised <= set(sartor.__all__)
    assert {n for names in sartor._HOMES.values() for n in names} == set(sartor.__all__)
    assert all(getattr(sartor, n) is not None for n in sartor.__all__)


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, sartor.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
