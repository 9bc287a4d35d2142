"""The table of the README: what is printed is what was measured, and only the place for it changes."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("measured")


def run(latency: bool) -> dict[str, Any]:
    timed = [
        {"target": "onnxruntime-cpu", "ratio": 0.58, "interval": [0.561, 0.603], "original_ms": 4.0, "fitted_ms": 2.3}
    ]
    return {
        "row": {
            "budget": "latency<=60% @ onnxruntime-cpu" if latency else "macs<=50%",
            "recipe": "taylor",
            "epochs": 3,
        },
        "result": {
            "counted": {"macs": {"original": 200, "fitted": 99}, "params": {"original": 100, "fitted": 40}},
            "latency": timed if latency else [],
            "proof": {"passed": True, "max_relative_error": 2e-6},
        },
        "test": {"original": 93.39, "final": 91.5},
        "seconds": 61.4,
    }


def test_a_line_says_what_was_measured(measured: ModuleType) -> None:
    lines = measured.table([run(False), run(True)]).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| macs<=50% | taylor | 3 | 49.5 % | 40.0 % |  | 93.39 | 91.50 | 2e-06 | 61 |"
    assert "| 58 % (56 to 60) |" in lines[3]


def test_a_failed_proof_is_not_hidden(measured: ModuleType) -> None:
    failed = run(False)
    failed["result"]["proof"]["passed"] = False
    assert "| failed |" in measured.table([failed])


def test_the_caption_names_the_machine(measured: ModuleType) -> None:
    environment = {"cpu": "A", "cores": 2, "os": "B", "versions": {"torch": "2.9", "numpy": "2", "onnxruntime": None}}
    assert measured.caption(environment).endswith("Machine: A, 2 cores, B, torch 2.9.")
    assert "Machine" not in measured.caption({})


def test_only_the_place_between_the_markers_changes(measured: ModuleType) -> None:
    page = "a\n<!-- measured -->\nold\n<!-- /measured -->\nb\n"
    once = measured.filled(page, "new")
    assert once == "a\n<!-- measured -->\nnew\n<!-- /measured -->\nb\n"
    assert measured.filled(once, "new") == once
    measured.filled((ROOT / "README.md").read_text(), "x")


@pytest.mark.parametrize("page", ["", "<!-- measured -->", "<!-- /measured --><!-- measured -->"])
def test_a_page_without_its_markers_is_refused(measured: ModuleType, page: str) -> None:
    with pytest.raises(ValueError, match="once each"):
        measured.filled(page, "x")
