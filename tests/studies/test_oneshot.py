"""The tables of the one-shot bench say what the rows say."""

from __future__ import annotations

from typing import Any

from sartor.studies.oneshot import OneShot, lines


def row(name: str, share: float, cut: float, repaired: float | None, **more: Any) -> dict[str, Any]:
    return {
        "recipe": name, "asked": share, "why": None, "macs": share, "params": 0.6, "decision_s": 1.5, "repair_s": 2.0,
        "cut": cut, "norm": None, "repaired": repaired, **more,
    }  # fmt: skip


ROWS = [
    row("l1", 0.7, 50.0, 80.0), row("l1", 0.5, 30.0, 70.0), row("l1", 0.3, 20.0, 60.0),
    row("chip", 0.7, 55.0, 79.0), row("chip", 0.5, 35.0, 75.0),
    {**row("chip", 0.3, 0.0, 0.0), "cut": None, "repaired": None, "why": "macs cannot go below 12"},
    row("Peer, L1", 0.7, 90.0, None, peer="x.py:y", macs=0.66),
]  # fmt: skip


def test_best_first_and_best_of_each_column_bold() -> None:
    table = lines(ROWS)
    assert [line[0] for line in table] == ["chip", "l1", "Peer, L1"]
    assert table[0][1:] == ["55.0", "79.0", "**35.0**", "**75.0**", "not reached", "not reached", "1.5"]
    assert table[1][1:] == ["50.0", "**80.0**", "30.0", "70.0", "**20.0**", "**60.0**", "1.5"]


def test_what_a_peer_cannot_do_is_a_dash_and_what_was_not_run_is_empty() -> None:
    assert lines(ROWS)[2][1:] == ["**90.0**", "–", "", "", "", "", "1.5"]


def test_the_page_says_the_reason_and_how_far_a_peer_is_off() -> None:
    network = {"name": "Net", "original": 91.0, "test_samples": 2000, "calibration": 500, "rows": ROWS}
    page = OneShot().page({"seed": 3, "networks": [network], "environment": {"cpu": "a CPU"}})
    assert "macs cannot go below 12" in page and "66.0 % of the MACs" in page and "seed 3" in page and "a CPU" in page
    assert "batch norms re-estimated" not in page  # nobody has such a figure
