"""Rows say what the record says, and an empty part gives no rows."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
from tests.records import small_record

from sartor.errors import CorruptFile
from sartor.report import read_result, render, rows, sentences
from sartor.run.record import BudgetRow, JudgedQuality, Pair, Record, Samples

EXAMPLE = Path(__file__).parent / "example"
RESULT = read_result(EXAMPLE)
PLAIN = RESULT.with_steps()
TABLES = {
    "budget": rows.budget_rows, "counted": lambda r: rows.counted_rows(r.counted),
    "latency": lambda r: rows.latency_rows(r.latency), "quality": lambda r: rows.quality_rows(r.quality),
    "kept": rows.kept_rows, "frozen": lambda r: rows.frozen_rows((f.axis, f.reason) for f in r.frozen),
    "epochs": rows.epoch_rows, "trail": rows.trail_rows, "times": rows.time_rows, "recipe": rows.recipe_rows,
    "environment": rows.environment_rows, "files": rows.file_rows, "tiles": rows.tile_rows,
}  # fmt: skip
PARTS = [k for k in PLAIN if isinstance(PLAIN[k], list | dict)]


def test_the_headline_is_the_result_in_one_sentence() -> None:
    assert sentences.headline(RESULT) == "0.58× the latency, 49.6 % of the MACs, accuracy 94.4 → 92.0"


def test_the_headline_names_every_counted_limit_that_was_asked() -> None:
    counted = {m: Pair(original=100, fitted=25) for m in ("macs", "params", "bytes")}
    limits = [
        BudgetRow(metric=m, target=None, limit=0.5, relative=True, original=100, value=25, status="met")
        for m in ("params", "bytes")
    ]
    record = small_record(counted=counted, budget=limits)
    assert sentences.headline(record) == "25.0 % of the parameters, 25.0 % of the bytes"


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_every_table_has_rows_of_a_full_record_and_none_of_an_empty_one(table) -> None:
    assert table(RESULT)
    assert table(small_record()) == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("broken", [None, {}, [], "text", 3])
def test_a_part_of_another_kind_is_refused_by_name_unless_it_is_an_empty_table(part: str, broken: object) -> None:
    try:
        record = Record.from_result({**PLAIN, part: broken})
    except CorruptFile as e:
        assert re.match(rf"result field '{part}[.']", str(e))
        return
    assert broken == type(PLAIN[part])()
    for table in TABLES.values():
        table(record)
    for sentence in (sentences.headline, sentences.verdict, sentences.proof_sentence, sentences.kept_summary):
        sentence(record)


def test_numbers_that_are_none_or_nan_are_left_out() -> None:
    quality = JudgedQuality(metric="accuracy", original=90.0, after_cut=None, after_repair=math.nan, final=89.0)
    assert [r.step for r in rows.quality_rows(quality)] == ["original", "final"]


def test_kept_rows_keep_network_order_and_count_units() -> None:
    found = rows.kept_rows(RESULT)
    assert [r.name for r in found] == [g.name for g in RESULT.groups]
    assert all(r.share == r.kept / r.units for r in found)
    assert f"{sum(r.kept for r in found)} of {sum(r.units for r in found)}" in sentences.kept_summary(RESULT)


def test_frozen_axes_are_gathered_by_reason_without_losing_one() -> None:
    found = TABLES["frozen"](RESULT)
    assert sum(len(r.axes) for r in found) == len(RESULT.frozen)
    assert len({r.reason for r in found}) == len(found)
    assert [len(r.axes) for r in found] == sorted((len(r.axes) for r in found), reverse=True)


def test_the_least_quality_allowed_follows_from_the_drop() -> None:
    assert rows.quality_floor(RESULT) == pytest.approx(RESULT.quality.original - 3)
    assert rows.quality_floor(small_record(quality=RESULT.quality)) is None


def test_a_latency_limit_in_the_budget_is_shown_with_the_pairwise_ratio() -> None:
    timed = next(r for r in rows.budget_rows(RESULT) if r.clause.startswith("latency"))
    assert timed.share == f"{100 * RESULT.latency[0].ratio:.1f} %"
    assert timed.clause == "latency ≤ 60 % @ onnxruntime-cpu"


def test_many_samples_are_thinned() -> None:
    samples = Samples(original_ms=[float(i) for i in range(1, 5001)], fitted_ms=[1.0])
    row = rows.latency_rows([RESULT.latency[0].model_copy(update={"samples": samples})])[0]
    assert 100 <= len(row.original_samples) <= 400
    assert row.fitted_samples == (1.0,)


def test_parts_of_the_time_add_up() -> None:
    found = rows.time_rows(RESULT)
    assert sum(r.seconds for r in found) == pytest.approx(sum(RESULT.seconds.values()))
    assert sum(r.share for r in found) == pytest.approx(1)
    assert len({r.colour for r in found}) == len(found) <= rows.COLOURS


def test_a_missed_budget_names_the_limits_that_were_missed() -> None:
    missed = BudgetRow(metric="macs", target=None, limit=0.5, relative=True, original=10, value=9, status="missed")
    assert sentences.verdict(small_record(status="missed", budget=[missed])) == (False, "budget not met: macs ≤ 50 %")


def test_a_failed_proof_says_so() -> None:
    failed = small_record(proof=RESULT.proof.model_copy(update={"passed": False}))
    assert "DOES NOT equal" in sentences.proof_sentence(failed)
    assert '<p class="note bad">The cut network DOES NOT equal' in render(failed)


def test_the_example_is_json_without_numbers_json_does_not_know() -> None:
    json.loads((EXAMPLE / "result.json").read_text(), parse_constant=lambda c: pytest.fail(f"{c} in the example"))
