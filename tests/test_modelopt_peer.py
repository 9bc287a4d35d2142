"""The table of `bench/modelopt_peer.py`: what is printed is what was measured, and what failed is said."""

from __future__ import annotations

import importlib
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sartor.errors import SartorError

ROOT = Path(__file__).parents[1]
MADE: dict[str, Any] = {"cpu": "A", "versions": {"torch": "2.9", "numpy": "2.0"}}
ROW: dict[str, Any] = {"target": "onnxruntime-cpu:threads=1", "asked": "onnxruntime-cpu:threads=1", "limit": 0.6}
DONE: dict[str, Any] = {"measured": 0.63, "interval": [0.62, 0.64], "macs": 0.5, "says": 0.59, "seconds": 12.3}


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("modelopt_peer")


def test_a_line_for_each_tool_and_its_sum(peer: ModuleType) -> None:
    rows = [
        {**ROW, **DONE, "tool": "Sartor", "measured": 0.6},
        {**ROW, **DONE, "tool": "ModelOpt", "timed_ms": [100.0, 10.0, 40.0, 120.0]},
    ]
    text = peer.body(rows, MADE, "0.47.0")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    target = ROW["target"]
    assert lines[3] == (
        f"| {target} | 60 % | ModelOpt | {target} | 63.0 % | 62.0–64.0 % | 1.050 | 50.0 % | 59.0 % | 12 |"
    )
    assert "Sartor on onnxruntime-cpu:threads=1: 1 of 1 within 0.93–1.03" in text
    assert "ModelOpt on onnxruntime-cpu:threads=1: 0 of 1" in text
    assert "100.0 and 120.0 ms" in text and "nvidia-modelopt 0.47.0, torch 2.9 on A." in text


def test_what_failed_is_in_the_table_and_in_words(peer: ModuleType) -> None:
    rows = [{**ROW, "tool": "ModelOpt", "why": "AssertionError: no runtime"}]
    text = peer.body(rows, MADE, "0.47.0")
    assert "| not reached |" in text and text.endswith(f"- ModelOpt, {ROW['target']}, 60 %: AssertionError: no runtime")


def test_what_is_kept_is_not_made_again(peer: ModuleType, tmp_path: Path) -> None:
    file, failed = tmp_path / "a.json", tmp_path / "b.json"
    assert peer.kept(file, partial(dict, says=1), 60.0) == {"says": 1}
    assert peer.kept(file, partial(dict, says=2), 60.0) == {"says": 1}
    assert peer.kept(failed, partial(int, "x"), 60.0)["why"].startswith("ValueError: invalid literal")


def test_without_the_other_tool_it_says_so(peer: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(SartorError, match="install it as modelopt_peer"):
        peer.version()


def test_the_network_is_one_of_the_bench_file(peer: ModuleType) -> None:
    from sartor.studies.latency_study import read_cases

    assert [n.name for n in read_cases(peer.FILE)[2]].count(peer.NETWORK) == 1


def test_the_page_has_a_place_for_it() -> None:
    from sartor.cli.markdown_block import MarkdownBlock

    MarkdownBlock(ROOT / "docs" / "latency.md", "modelopt")
