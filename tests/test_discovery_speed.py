"""The tables of `bench/discovery_speed.py`: what is printed is what was measured, and says what was timed."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]


@pytest.fixture
def speed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module("discovery_speed")


def rows(speed: ModuleType) -> list:
    ours = speed.Ours(5.0, 2.0, 2.0, 1.0, 6.0, operators=10, groups=2)
    return [
        speed.Row("a", ours, speed.Peer("runs", 20.0, 10.0, 15.0, 5.0)),
        speed.Row("b", ours, speed.Peer("does not run: RuntimeError", 80.0, 10.0, 40.0, 10.0)),
        speed.Row("c", ours, speed.Peer("runs", 40.0, 10.0, 30.0, 5.0)),
        speed.Row("d", ours, speed.Peer("fails: TypeError: x")),
        speed.Row("e", ours, speed.Peer("runs", 6.0, 3.0, 5.0, 5.0), tiny=True),
    ]


def test_a_line_for_each_network_and_the_medians(speed: ModuleType) -> None:
    lines, *summary = (part.splitlines() for part in speed.table(rows(speed)).split("\n\n"))
    assert len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| a | 5.00 | 2.00 | 2.00 | 1.00 | 6.00 | 20.0 | 10.0 | 3.33 | 3.00 | 2.00 | runs |"
    assert lines[5] == "| d | 5.00 | 2.00 | 2.00 | 1.00 | 6.00 | – | – | – | – | – | fails: TypeError: x |"
    assert lines[6].startswith("| e (tiny) |")
    running, finished, tiny, failing = (line for part in summary for line in part)
    assert running.startswith("Over 2 networks that Torch-Pruning cuts to a smaller one that runs")
    assert "(trace, probe, plan, cut) median **4.44** times, smallest 3.33 (a)" in running
    assert "(`check_cut`) median **4.00** times, smallest 3.00 (a)" in running
    assert "(`prove`) median **2.67** times, smallest 2.00 (a)" in running
    assert finished.startswith("Over 3 networks on which it finishes")
    assert tiny.startswith("Over 1 tiny configurations") and "smallest 1.00 (e)" in tiny
    assert failing == "Torch-Pruning fails on d."


def test_the_time_of_a_trace_alone_is_called_so(speed: ModuleType) -> None:
    lines = speed.trace_table(rows(speed)).splitlines()
    assert lines[0].count("trace only") == 2
    assert lines[2] == "| a | 10 | 2 | 5.00 | 15.0 | 5.00 | 4.00 |" and lines[-1].endswith("| **7.00** |")
    assert lines[-2].startswith("| e (tiny) |")


def test_medians_of_several_turns(speed: ModuleType) -> None:
    turns = [speed.Ours(t, 1.0, 1.0, 1.0, None, 7, 3) for t in (1.0, 9.0, 2.0)]
    assert speed.medians(turns) == speed.Ours(2.0, 1.0, 1.0, 1.0, None, 7, 3)


def test_sentences_say_where_and_how_large(speed: ModuleType) -> None:
    found = {"parameters": 6_700_000_000, "operators": 1794, "groups": 98, "seconds": 0.2, "mib": 9.5}
    assert "6.7 billion" in speed.sentence(found) and "1,794 operators" in speed.sentence(found)
    assert speed.caption({"cpu": "A", "versions": {"torch": "2.9", "timm": None}}).endswith("Machine: A, torch 2.9.")


def test_time_is_cpu_time_of_what_is_asked(speed: ModuleType) -> None:
    took, result = speed.cpu_ms(lambda: sum(range(100_000)))
    assert took > 0 and result == 4_999_950_000


def test_every_step_of_a_cut_is_timed(speed: ModuleType) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    ours = speed.cut_in_half(model, torch.randn(1, 3, 8, 8))
    assert min(ours.trace, ours.probe, ours.cut, ours.check, ours.proof) > 0
    assert (ours.operators, ours.groups) == (3, 1)
    unverified = ours.trace + ours.probe + ours.cut
    assert ours.total("checked") == pytest.approx(unverified + ours.check)
    assert ours.total("proved") == pytest.approx(unverified + ours.proof)


def test_a_network_on_meta_is_cut_and_not_proved(speed: ModuleType) -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    ours = speed.cut_in_half(model, torch.zeros(1, 4))
    assert ours.proof is None and ours.total("proved") is None and ours.total("checked") > 0


def test_a_network_that_was_not_made_smaller_or_does_not_run_is_told_apart(speed: ModuleType) -> None:
    model, x = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4)), torch.zeros(1, 4)
    assert speed.outcome_of(model, model, x) == "is not smaller"
    smaller = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4))
    assert speed.outcome_of(model, smaller, x) == "runs"
    broken = nn.Sequential(nn.Linear(4, 6), nn.Linear(8, 4))
    assert speed.outcome_of(model, broken, x).startswith("does not run: RuntimeError")


def test_28_networks_of_which_ten_are_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    module = importlib.import_module("speed_networks")
    assert len(module.networks()) == 28 and len(module.TRANSFORMERS) == 10
    assert len(module.tiny_networks()) > 20


def test_the_page_has_a_place_for_it() -> None:
    from sartor.cli.markdown_block import MarkdownBlock

    MarkdownBlock(ROOT / "docs" / "discovery.md", "discovery-speed")
