"""`sartor bench discovery`: what it says of a network is what was done; one that breaks breaks nothing else."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from sartor.studies.examination import examine
from sartor.testing import families
from sartor.testing.isolation import isolated

PAGE = "# Sweep\n\n<!-- discovery -->\nold words\n<!-- /discovery -->\n"


def test_every_network_of_the_small_set_with_a_word_in_its_name(say, tmp_path: Path) -> None:
    page, keep = tmp_path / "page.md", tmp_path / "rows.jsonl"
    page.write_text(PAGE)
    words = (
        "bench",
        "discovery",
        "--set",
        "small",
        "--only",
        "view-literals",
        "--keep",
        keep,
        "--write",
        page,
        "--json",
    )
    answer = say(*words).json
    found = answer["rows"]
    assert answer["libraries"] == {} and f"torch {torch.__version__.split('+')[0]}" in page.read_text()
    assert {r["name"] for r in found} == {"view-literals"}
    for r in found:
        assert r["discovered"] and r["runs"] and r["shapes"] and r["trains"] and r["exports"] is None
        assert r["groups"] == r["realised"] and r["exact"] in (True, None)
    text = page.read_text()
    assert "view-literals" in text and "old words" not in text
    lines = [json.loads(line) for line in keep.read_text().splitlines()]
    lines[0]["params"] = 12345678
    keep.write_text("".join(json.dumps(r) + "\n" for r in lines))
    assert say(*words).json["rows"][0]["params"] == 12345678  # taken from the file, not examined again


def test_exports_can_be_asked_for_later(say, tmp_path: Path) -> None:
    keep = tmp_path / "rows.jsonl"
    words = ("bench", "discovery", "--only", "view-literals", "--keep", keep, "--json")
    first = say(*words).json["rows"][0]
    later = say(*words, "--export").json["rows"][0]
    assert first["exports"] is None and later["exports"] is True
    assert {**later, "exports": None} == first  # nothing else was done again, its seconds included
    assert say(*words, "--export").json["rows"][0] == later and len(keep.read_text().splitlines()) == 2


def test_a_network_that_breaks_is_a_row_with_the_reason(say, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> tuple[nn.Module, torch.Tensor]:
        raise RuntimeError("no such weights")

    def dies() -> tuple[nn.Module, torch.Tensor]:
        os._exit(7)

    def fine() -> tuple[nn.Module, torch.Tensor]:
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(1, 4)

    monkeypatch.setattr(families, "small", lambda: {"broken": broken, "dies": dies, "fine": fine})
    rows = {r["name"]: r for r in say("bench", "discovery", "--json").json["rows"]}
    assert "no such weights" in rows["broken"]["why"]["process"]
    assert "status 7" in rows["dies"]["why"]["process"]
    assert rows["fine"]["exact"] is True


def test_what_a_name_is_not(say) -> None:
    assert say("bench", "discovery", "--set", "tim").code == 2
    assert say("bench", "discovery", "--only", "no network is called so").code == 2


def test_a_function_that_takes_too_long_is_ended() -> None:
    start = time.monotonic()
    assert isolated(lambda: time.sleep(60), seconds=0.5)[0] is None
    assert time.monotonic() - start < 30
    assert isolated(lambda: 3, seconds=30) == (3, "")


class Wrong(nn.Module):
    """Uses a width as a value, in a tensor of several: every shape fits and the function changes."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[n, 4] -> [n, 2]."""
        x = self.a(x).relu()
        return self.b(x / torch.tensor([float(x.shape[1])] * 2)[0])


def test_a_silent_error_is_not_called_exact() -> None:
    row = examine(Wrong(), torch.randn(1, 4))
    assert row["runs"] and row["exact"] is False and "differs from the zero-masked original" in row["why"]["prove"]


def test_coverage_counts_what_lies_on_an_axis() -> None:
    row = examine(nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2)), torch.randn(1, 4))
    assert row["coverage"] == pytest.approx(112 / 114)  # all but the bias of the last
    assert row["groups"] == row["realised"] == 1
