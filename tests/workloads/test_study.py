"""`sartor bench workloads` keeps a row for each network and makes the table from the rows alone."""

from __future__ import annotations

import json
from pathlib import Path

from sartor.cli import run
from sartor.studies.workloads import HEADS, cells


def test_a_row_is_kept_and_fills_the_page(tmp_path: Path) -> None:
    page, rows = tmp_path / "page.md", tmp_path / "rows.jsonl"
    page.write_text("<!-- workloads -->\n<!-- /workloads -->\n")
    command = ["bench", "workloads", "--only", "icgnn", "--target", "eager-cpu:threads=1", "--keep", str(rows)]
    assert run([*command, "--write", str(page)]) == 0
    (row,) = [json.loads(line) for line in rows.read_text().splitlines()]
    assert row["groups"] and row["left"] <= 0.7 and not row["why"]
    assert row["verdict"]["status"] == "exact" and row["violation"]["after"] < 1e-4
    assert row["quality"].keys() == {"original", "cut", "repaired", "trained"}
    assert len(cells(row)) == len(HEADS)
    first = page.read_text()
    assert "| icgnn | signals |" in first
    assert run([*command, "--write", str(page)]) == 0  # from the row that was kept
    assert page.read_text() == first and len(rows.read_text().splitlines()) == 1
