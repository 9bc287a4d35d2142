"""`sartor bench latency`: what another process measures is what stands in the table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sartor.studies import latency_study
from sartor.studies.latency_study import LatencyStudy, limit_summary

NET = """
import torch
from torch import nn

def net():
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 4, 1)
    )
"""
latency_markdown = LatencyStudy().page
PAGE = "# Latency\n\n<!-- promise -->\nold words\n<!-- /promise -->\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    path = tmp_path / "bench.toml"
    path.write_text(
        f'targets = ["eager-cpu:threads=1"]\nlimits = [60]\n[[network]]\nname = "Small"\n'
        f'model = "{tmp_path / "net.py"}:net"\ninput = "1x3x32x32"\n'
    )
    return path


def test_a_case_is_fitted_in_one_process_and_measured_in_another(say, file: Path, tmp_path: Path) -> None:
    page, keep = tmp_path / "page.md", tmp_path / "rows.jsonl"
    page.write_text(PAGE)
    words = ("bench", "latency", file, "--keep", keep, "--write", page, "--json")
    (row,) = say(*words).json["rows"]
    assert isinstance(row["noisy"], str) and 0 <= row["noisy_rounds"] <= row["rounds"]
    assert 0 < row["macs"] < 1 and row["rounds"] >= 1 and 0 < row["interval"][0] <= row["again"] <= row["interval"][1]
    assert "Small" in page.read_text() and "old words" not in page.read_text()
    kept = json.loads(keep.read_text())
    assert set(json.loads(kept["plan"])["keep"]) <= {"0", "2"}
    kept["again"] = 0.123
    keep.write_text(json.dumps(kept) + "\n")
    assert say(*words).json["rows"][0]["again"] == 0.123  # taken from the file, not made again


def test_what_fails_is_a_row_with_the_reason(say, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(file.read_text().replace(":net", ":nothing"))
    (row,) = say("bench", "latency", file, "--json").json["rows"]
    assert "nothing" in row["why"] and row.get("again") is None


@pytest.mark.parametrize(
    "old, new, said",
    [
        ("targets", "target", "targets"),
        ("eager-cpu", "eagle-cpu", "eager-cpu"),
        ("[60]", "[160]", "160"),
        ("input", "inputs", "input"),
        ('name = "Small"', "name = 3", "name"),
    ],
)
def test_a_bench_file_that_is_wrong_is_told(say, file: Path, old: str, new: str, said: str) -> None:
    file.write_text(file.read_text().replace(old, new, 1))
    found = say("bench", "latency", file)
    assert found.code == 2 and said in found.err


def test_the_sum_counts_every_case() -> None:
    row = {"network": "n", "target": "t", "limit": 0.5, "macs": 0.4, "ratio": 0.49, "predicted": None, "rounds": 3}
    rows = [{**row, "again": a, "interval": [a, a], "seconds": 1.0} for a in (0.5, 0.44, 0.6)]
    rows.append({**row, "seconds": 1.0, "why": "the floor"})
    said = limit_summary(rows)
    assert (said["cases"], said["reached"], said["within"], said["worst"]) == (4, 3, 1, 1.2)
    text = latency_markdown({"rows": rows, "recipe": "l1", "environment": {}})
    assert "1 of 4 within" in text and "n, t, 50 %: the floor" in text


def test_the_repositorys_file_reads() -> None:
    targets, limits, networks = latency_study.read_cases(Path(__file__).parents[2] / "bench" / "latency.toml")
    assert len(targets) * len(limits) * len(networks) == 30


def test_a_row_measured_on_a_busy_machine_says_so_and_a_quiet_table_has_no_word_of_it() -> None:
    row = {
        "network": "n", "target": "t", "limit": 0.5, "macs": 0.4, "ratio": 0.49, "predicted": None, "rounds": 3,
        "again": 0.5, "interval": [0.4, 0.6], "seconds": 1.0,
    }  # fmt: skip
    page = lambda *rows: latency_markdown({"rows": rows, "recipe": "l1", "environment": {}})
    assert "machine" not in page(row, {**row, "noisy": ""})
    text = page({**row, "noisy": ""}, {**row, "noisy": "a neighbour"})
    assert "| machine |" in text and "| quiet |" in text and "| busy |" in text
    assert "n, t, 50 %: the machine was busy: a neighbour; the interval is wide" in text
