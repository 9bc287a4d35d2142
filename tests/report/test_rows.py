"""Rows say what the result says, and a missing part gives no rows."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from sartor.report import read_result, rows, sentences

EXAMPLE = Path(__file__).parent / "example"
RESULT = read_result(EXAMPLE)
TABLES = [
    rows.budget_rows, rows.counted_rows, rows.latency_rows, rows.quality_rows, rows.kept_rows, rows.frozen_rows,
    rows.epoch_rows, rows.trail_rows, rows.time_rows, rows.recipe_rows, rows.environment_rows, rows.file_rows,
    rows.tile_rows,
]  # fmt: skip
PARTS = [k for k in RESULT if isinstance(RESULT[k], list | dict)]


def test_the_headline_is_the_result_in_one_sentence() -> None:
    assert sentences.headline(RESULT) == "0.58× the latency, 49.6 % of the MACs, accuracy 94.4 → 92.0"


def test_the_headline_names_every_counted_limit_that_was_asked() -> None:
    counted = {m: {"original": 100, "fitted": 25} for m in ("macs", "params", "bytes")}
    asked = [{"metric": "params"}, {"metric": "bytes"}]
    assert sentences.headline({"counted": counted, "budget": asked}) == "25.0 % of the parameters, 25.0 % of the bytes"


@pytest.mark.parametrize("table", TABLES)
def test_every_table_has_rows_of_a_full_result_and_none_of_an_empty_one(table) -> None:
    assert table(RESULT)
    assert table({}) == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("broken", [None, {}, [], "text", 3])
def test_a_part_of_another_kind_is_as_if_it_were_missing(part: str, broken: object) -> None:
    result = {**RESULT, part: broken}
    for table in TABLES:
        table(result)
    for sentence in (sentences.headline, sentences.verdict, sentences.proof_sentence, sentences.kept_summary):
        sentence(result)


def test_numbers_that_are_none_or_nan_are_left_out() -> None:
    quality = {"metric": "accuracy", "original": 90.0, "after_cut": None, "after_repair": math.nan, "final": 89.0}
    assert [r.step for r in rows.quality_rows({"quality": quality})] == ["original", "final"]


def test_kept_rows_keep_network_order_and_count_units() -> None:
    found = rows.kept_rows(RESULT)
    assert [r.name for r in found] == [g["name"] for g in RESULT["groups"]]
    assert all(r.share == r.kept / r.units for r in found)
    assert f"{sum(r.kept for r in found)} of {sum(r.units for r in found)}" in sentences.kept_summary(RESULT)


def test_frozen_axes_are_gathered_by_reason_without_losing_one() -> None:
    found = rows.frozen_rows(RESULT)
    assert sum(len(r.axes) for r in found) == len(RESULT["frozen"])
    assert len({r.reason for r in found}) == len(found)
    assert [len(r.axes) for r in found] == sorted((len(r.axes) for r in found), reverse=True)


def test_the_least_quality_allowed_follows_from_the_drop() -> None:
    assert rows.quality_floor(RESULT) == pytest.approx(RESULT["quality"]["original"] - 3)
    assert rows.quality_floor({**RESULT, "asked": {"budget": "macs<=50%"}}) is None


def test_a_latency_limit_in_the_budget_is_shown_with_the_pairwise_ratio() -> None:
    timed = next(r for r in rows.budget_rows(RESULT) if r.clause.startswith("latency"))
    assert timed.share == f"{100 * RESULT['latency'][0]['ratio']:.1f} %"
    assert timed.clause == "latency ≤ 60 % @ onnxruntime-cpu"


def test_many_samples_are_thinned() -> None:
    item = {**RESULT["latency"][0], "samples": {"original_ms": list(range(1, 5001)), "fitted_ms": [1.0]}}
    row = rows.latency_rows({"latency": [item]})[0]
    assert 100 <= len(row.original_samples) <= 400
    assert row.fitted_samples == (1.0,)


def test_parts_of_the_time_add_up() -> None:
    found = rows.time_rows(RESULT)
    assert sum(r.seconds for r in found) == pytest.approx(sum(RESULT["seconds"].values()))
    assert sum(r.share for r in found) == pytest.approx(1)
    assert len({r.colour for r in found}) == len(found) <= rows.COLOURS


def test_a_missed_budget_names_the_limits_that_were_missed() -> None:
    budget = [{"metric": "macs", "limit": 0.5, "relative": True, "original": 10, "value": 9, "met": False}]
    assert sentences.verdict({"status": "missed", "budget": budget}) == (False, "budget not met: macs ≤ 50 %")


def test_a_failed_proof_says_so() -> None:
    failed = {"proof": {**RESULT["proof"], "passed": False}}
    assert "DOES NOT equal" in sentences.proof_sentence(failed)
    assert not sentences.proved(failed)


def test_the_example_is_json_without_numbers_json_does_not_know() -> None:
    json.loads((EXAMPLE / "result.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} in the example"))
