"""The table of `bench/discovery_speed.py`: what is printed is what was measured."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("discovery_speed")


def test_a_line_for_each_network_and_the_median(speed: ModuleType) -> None:
    rows = [speed.Row(name, 10, 2, 10.0, 50.0, walk) for name, walk in (("a", 10.0), ("b", 40.0), ("c", 950.0))]
    lines = speed.table(rows).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| a | 10 | 2 | 10.0 | 50.0 | 10.0 | 6.0 |" and lines[-1].endswith("| **9.0** |")


def test_sentences_say_where_and_how_large(speed: ModuleType) -> None:
    found = {"parameters": 6_700_000_000, "operators": 1794, "groups": 98, "seconds": 0.2, "mib": 9.5}
    assert "6.7 billion" in speed.sentence(found) and "1,794 operators" in speed.sentence(found)
    assert speed.caption({"cpu": "A", "versions": {"torch": "2.9", "timm": None}}).endswith("Machine: A, torch 2.9.")


def test_time_is_cpu_time_of_what_is_asked(speed: ModuleType) -> None:
    took, result = speed.cpu_ms(lambda: sum(range(100_000)))
    assert took > 0 and result == 4_999_950_000


def test_the_page_has_a_place_for_it() -> None:
    from sartor.cli.markdown_block import MarkdownBlock

    MarkdownBlock(ROOT / "docs" / "discovery.md", "discovery-speed")
