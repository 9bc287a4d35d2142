"""The table of the README: what is printed is what was measured, and only the place for it changes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sartor.cli.markdown_block import MarkdownBlock
from sartor.errors import BadInput
from sartor.studies import Grid, markdown, measured

ROOT = Path(__file__).parents[2]


def table(rows: list[dict[str, Any]]) -> str:
    return markdown([Grid(measured.HEADS, [measured.cells(row) for row in rows])])


def run(latency: bool) -> dict[str, Any]:
    timed = [
        {"target": "onnxruntime-cpu", "ratio": 0.58, "interval": [0.561, 0.603], "original_ms": 4.0, "fitted_ms": 2.3}
    ]
    return {
        "budget": "latency<=60% @ onnxruntime-cpu" if latency else "macs<=50%",
        "recipe": "taylor",
        "epochs": 3,
        "result": {
            "counted": {"macs": {"original": 200, "fitted": 99}, "params": {"original": 100, "fitted": 40}},
            "latency": timed if latency else [],
            "proof": {"passed": True, "max_relative_error": 2e-6},
        },
        "test": {"original": 93.39, "final": 91.5},
        "seconds": 61.4,
    }


def test_a_line_says_what_was_measured() -> None:
    lines = table([run(False), run(True)]).splitlines()
    assert len(lines) == 4 and len({line.count("|") for line in lines}) == 1
    assert lines[2] == "| macs<=50% | taylor | 3 | 49.5 % | 40.0 % |  | 93.39 | 91.50 | 2e-06 | 61 |"
    assert "| 58 % (56 to 60) |" in lines[3]


def test_a_failed_proof_is_not_hidden() -> None:
    failed = run(False)
    failed["result"]["proof"]["passed"] = False
    assert "| failed |" in table([failed])


def test_the_caption_names_the_machine() -> None:
    environment = {"cpu": "A", "cores": 2, "os": "B", "versions": {"torch": "2.9", "numpy": "2", "onnxruntime": None}}
    assert measured.caption(environment).endswith("Machine: A, 2 cores, B, torch 2.9.")
    assert "Machine" not in measured.caption({})


def test_only_the_place_between_the_markers_changes(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- measured -->\nold\n<!-- /measured -->\nb\n")
    block = MarkdownBlock(page, measured.Measured.marker)
    for _ in range(2):
        block.fill("new")
        assert page.read_text() == "a\n<!-- measured -->\nnew\n<!-- /measured -->\nb\n"
    MarkdownBlock(ROOT / "README.md", measured.Measured.marker)


@pytest.mark.parametrize("text", ["", "<!-- measured -->", "<!-- /measured --><!-- measured -->"])
def test_a_page_without_its_markers_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(BadInput, match="once each"):
        MarkdownBlock(tmp_path / "page.md", "measured")


def test_the_head_of_the_readme_is_that_of_the_table() -> None:
    assert "| " + " | ".join(measured.HEADS) + " |" in (ROOT / "README.md").read_text()
