"""The page: one file, no network, everything escaped, whatever the result lacks or with a sentence that says what."""

from __future__ import annotations

import math
import re
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.records import small_record

from sartor.errors import CorruptFile, MissingExtra
from sartor.report import read_result, render, rows, summary, svg, text, write_report
from sartor.run.record import JudgedQuality, LatencyRow, Record, Samples, TrailRow

RECORD = read_result(Path(__file__).parent / "example")
RESULT = RECORD.with_steps()
VOID = {"meta", "br", "link", "img", "input", "hr"}
NASTY = "<script>alert('x')</script>\"><img src=x onerror=y> {{ 7*7 }} &amp; ö"


class _Page(HTMLParser):
    """Tags in order; fails where they are not nested."""

    def __init__(self, page: str):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def _poisoned(value: Any) -> Any:
    """The same result with every word replaced."""
    if isinstance(value, dict):
        return {k: v if k in ("status", "metric") else _poisoned(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_poisoned(v) for v in value]
    return NASTY if isinstance(value, str) else value


def test_the_page_is_nested_and_says_what_matters() -> None:
    page = _Page(render(RESULT))
    for words in (
        "0.58× the latency",
        "layer3.8.conv1",
        "it is a kernel size",
        "Xeon",
        "arXiv:1906.10771",
        "after repair",
    ):
        assert words in page.words


def test_the_page_needs_no_network() -> None:
    page = render(RESULT)
    assert {"script", "link", "img", "iframe", "object", "embed"}.isdisjoint(_Page(page).seen)
    assert not re.findall(r"url\(|@import", page)
    assert set(re.findall(r"https?://[^\"'\s<]*", page)) == {"http://www.w3.org/2000/svg"}
    assert "default-src 'none'" in page


def test_every_word_of_the_result_is_escaped() -> None:
    page = render(_poisoned(RESULT))
    parsed = _Page(page)
    assert {"script", "img"}.isdisjoint(parsed.seen)
    assert not [name for name, _ in parsed.attributes if name.startswith("on")]
    assert NASTY in parsed.words
    assert " 49 " not in parsed.words


@pytest.mark.parametrize("part", [k for k in RESULT if isinstance(RESULT[k], list | dict)])
def test_a_page_is_made_of_what_there_is_or_names_what_is_missing(part: str) -> None:
    rest = {k: v for k, v in RESULT.items() if k != part}
    if Record.model_fields[part].is_required():
        with pytest.raises(CorruptFile, match=f"result field '{part}' is missing"):
            render(rest)
    else:
        _Page(render(rest))


def test_a_record_with_empty_tables_is_a_page_too() -> None:
    _Page(render(small_record()))


def test_pictures_are_well_formed_and_have_a_name() -> None:
    found = re.findall(r"<svg .*?</svg>", render(_poisoned(RESULT)), flags=re.S)
    assert len(found) >= 6
    for picture in found:
        root = ET.fromstring(picture)
        assert root.get("aria-label") or root.get("aria-hidden")


def test_groups_beyond_the_bars_become_columns() -> None:
    few = rows.kept_rows(RECORD)
    many = [few[i % len(few)] for i in range(svg.MOST_BARS + 1)]
    assert "groups in network order;" in svg.kept_bars(many) and "groups in network order;" not in svg.kept_bars(few)
    for some in (few, many):
        root = ET.fromstring(svg.kept_bars(some))
        assert len(root.findall(".//*[@class='kept']")) == len(some) == len(root.findall(".//*[@class='whole']"))


def test_a_bar_is_as_long_as_what_was_kept() -> None:
    root = ET.fromstring(svg.kept_bars(rows.kept_rows(RECORD)))
    pairs = zip(root.findall(".//*[@class='kept']"), root.findall(".//*[@class='whole']"), rows.kept_rows(RECORD))
    for kept, whole, row in pairs:
        assert float(kept.get("width", 0)) / float(whole.get("width", 1)) == pytest.approx(row.share, abs=0.01)


def _numbers(picture: str) -> list[float]:
    named = r' (?:x|y|cx|cy|x1|x2|y1|y2|width|height|r)="([^"]*)"'
    return [float(v) for v in re.findall(named, picture)] + [
        float(v) for p in re.findall(r'points="([^"]*)"', picture) for v in re.split("[ ,]", p)
    ]


@settings(max_examples=60, deadline=None)
@given(
    a=st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=40),
    b=st.lists(st.floats(1e-4, 1e4), min_size=1, max_size=40),
)
def test_any_latencies_can_be_drawn(a: list[float], b: list[float]) -> None:
    samples = {"original_ms": a, "fitted_ms": b}
    original, fitted = sorted(a)[len(a) // 2], sorted(b)[len(b) // 2]
    item = LatencyRow(
        target="t", original_ms=original, fitted_ms=fitted, ratio=fitted / original, interval=(0.5, 0.6), noisy="",
        samples=Samples(**samples),
    )  # fmt: skip
    picture = svg.latency_strip(rows.latency_rows([item])[0])
    assert all(math.isfinite(v) for v in _numbers(picture))
    ET.fromstring(picture)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.floats(-1e6, 1e6), min_size=4, max_size=4))
def test_any_quality_and_any_training_can_be_drawn(values: list[float]) -> None:
    quality = JudgedQuality(**dict(zip(("original", "after_cut", "after_repair", "final"), values)))
    training = [{"epoch": i, "loss": v, "val": v} for i, v in enumerate(values)]
    trail = [TrailRow(macs_share=abs(v), ratio=abs(v)) for v in values]
    result = small_record(quality=quality, training=training, trail=trail)
    for picture in (
        svg.quality_steps(rows.quality_rows(result.quality)),
        svg.training_curve(rows.epoch_rows(result)),
        svg.trail_chart(rows.trail_rows(result), 0.5),
    ):
        ET.fromstring(picture)
        assert all(math.isfinite(v) for v in _numbers(picture))


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6))
def test_ticks_cover_what_is_drawn(low: float, span: float) -> None:
    ticks = svg.nice_ticks(low, low + span)
    slack = 1e-6 * (abs(low) + span)
    assert ticks[0] <= low + slack and ticks[-1] >= low + span - slack
    assert 2 <= len(ticks) <= 12


def test_nothing_to_draw_is_no_picture() -> None:
    assert svg.kept_bars([]) == svg.quality_steps([]) == svg.training_curve([]) == svg.trail_chart([]) == ""
    assert svg.time_bar([]) == ""


def test_a_report_is_written_into_the_run_folder_or_where_told(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text((Path(__file__).parent / "example" / "result.json").read_text())
    assert write_report(tmp_path) == tmp_path / "report.html"
    assert write_report(tmp_path / "result.json", tmp_path / "sub" / "page.html").is_file()
    assert (tmp_path / "sub" / "page.html").read_text() == (tmp_path / "report.html").read_text()


def test_without_jinja_the_message_holds_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtra, match=r"pip install 'sartor\[report\]'"):
        render(RESULT)


def test_the_terminal_table_says_the_same() -> None:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary({**RESULT, "notes": ["[bold]not markup[/bold]"]}))
    words = console.export_text()
    for part in ("0.58× the latency", "49.6 %", "after repair", "budget met", "[bold]not markup[/bold]"):
        assert part in words


def test_long_lists_of_frozen_axes_are_cut_short_in_the_terminal() -> None:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(text.frozen_table((f.axis, f.reason) for f in RECORD.frozen))
    assert "… 102 more" in console.export_text()
