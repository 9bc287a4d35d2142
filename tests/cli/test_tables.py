"""`sartor tables` on a machine whose clock is a formula."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from sartor.measure.tables import Timing, table
from sartor.measure.tables.trees import multiplies

TARGET = "eager-cpu:threads=1"


@pytest.fixture(autouse=True)
def clock(monkeypatch, tmp_path):
    """Time in proportion to the work; the tables lie in the test's folder."""
    monkeypatch.setenv("SARTOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        table, "in_turns", lambda works, target, **_: [Timing(1e-6 + 1e-9 * multiplies(k, p)) for k, p in works]
    )


def built(say, net: str) -> dict:
    said = say("tables", "build", net, "--input", "1x1x6x6", "--target", TARGET, "--no-correct", "--quiet", "--json")
    assert said.code == 0, said.err
    return said.json


def test_a_table_is_built_once_listed_and_shown(say, net, tmp_path) -> None:
    first, second = built(say, net), built(say, net)
    assert first["timings"] > 0 == second["timings"]
    assert set(first) == {
        "format", "sartor", "model", "target", "file", "operators", "timings", "seconds", "sources", "correction",
    }  # fmt: skip
    listed = say("tables", "list", "--json").json
    assert [r["timings"] for r in listed["tables"]] == [first["timings"]]
    operators = say("tables", "show", "--target", TARGET, "--json").json["operators"]
    assert sorted(o["label"] for o in operators) == ["conv2d 3x3 + batch_norm + relu + mean", "linear"]
    name = operators[0]["operator"]
    picture = tmp_path / "stairs.svg"
    shown = say("tables", "show", name[:8], "--target", TARGET, "--plot", picture, "--json").json
    assert [row["width"] for row in shown["line"]] == list(range(1, 9)) and shown["timed"]
    assert picture.read_text().startswith("<svg") and len(re.findall("<circle", picture.read_text())) == len(
        shown["timed"]
    )
    assert "microseconds" in say("tables", "show", name, "--target", TARGET).out


def test_tables_are_exported_and_merged(say, net, tmp_path) -> None:
    timings = built(say, net)["timings"]
    out = tmp_path / "rows.jsonl"
    assert say("tables", "export", out, "--json").json["timings"] == timings
    assert all(json.loads(line)["seconds"] > 0 for line in out.read_text().splitlines())
    other = tmp_path / "other.sqlite"
    merged = say("tables", "merge", tmp_path / "cache" / "tables.sqlite", "--file", other, "--json").json
    assert merged["new"] == timings
    assert say("tables", "list", "--file", other, "--json").json["tables"][0]["timings"] == timings


def test_what_is_not_there_is_said(say, net, tmp_path) -> None:
    assert say("tables", "list", "--json").json["tables"] == []
    built(say, net)
    assert "no operator of this target" in say("tables", "show", "zzz", "--target", TARGET).err
    name = say("tables", "show", "--target", TARGET, "--json").json["operators"][0]["operator"]
    said = say("tables", "show", name, "--target", TARGET, "--letter", "q")
    assert said.code == 2 and "no width of" in said.err
    assert say("tables", "merge", Path(tmp_path / "none")).code == 2
