"""The table of `sartor bench equal-latency`: what is printed is what was measured."""

from __future__ import annotations

from pathlib import Path

from sartor.studies import equal_latency as equal
from sartor.studies import markdown

ROOT = Path(__file__).parents[2]


def row(method: str, refreshed: float, repaired: float, limit: float = 0.8, seed: int = 0) -> dict:
    return {
        "recipe": "l1", "limit": limit, "method": method, "seed": seed, "macs": 0.5, "params": 0.4, "latency": 0.79,
        "interval": [0.78, 0.8], "original_ms": 4.0, "refreshed": refreshed, "repaired": repaired, "images": 2000,
        "original": 93.0,
    }  # fmt: skip


def test_a_line_for_each_plan_and_the_mean_over_draws() -> None:
    ours, macs = equal.METHODS[0].name, equal.METHODS[1].name
    lost = {"recipe": "l1", "limit": 0.4, "method": macs, "seed": 0, "why": "too low"}
    rows = [row(macs, 80.0, 90.0), row(ours, 85.0, 91.0), row(ours, 86.0, 92.0, seed=1), lost]
    lines = markdown([equal.table(rows)]).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 5
    assert lines[2] == f"| l1 | 80 % | {ours} | 50.0 % | 40.0 % | 79.0 % | 78.0–80.0 % | 85.50 | 91.50 |"
    assert "| 80 % | MACs |" in lines[3] and "not reached" in lines[4]


def test_the_verdict_compares_equal_scores_limits_and_draws() -> None:
    ours, macs, taken = equal.METHODS[0].name, equal.METHODS[1].name, equal.METHODS[-1].name
    rows = [row(ours, 85.0, 91.0), row(macs, 80.0, 91.5), row(macs, 99.0, 99.0, limit=0.6), row(taken, 99.0, 99.0)]
    said = markdown(equal.comparison(rows))
    assert f"- {macs}: 1 of 1 (+5.00 to +5.00 points) refreshed, 0 of 1 (-0.50 to -0.50 points) repaired" in said
    assert taken not in said


def test_the_caption_says_images_draws_and_machine() -> None:
    said = equal.caption({"cpu": "A", "versions": {"torch": "2.9"}}, [row(equal.METHODS[0].name, 85.0, 91.0)])
    assert "2,000 test images (the original: 93.00)" in said and said.endswith("Machine: A, torch 2.9.")


def test_the_page_has_a_place_for_it() -> None:
    from sartor.cli.markdown_block import MarkdownBlock

    MarkdownBlock(ROOT / "docs" / "latency.md", "equal")
