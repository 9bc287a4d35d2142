"""The page of an analysis."""

from __future__ import annotations

import pytest

from sartor.analysis import Analysis, AnalysisRow
from sartor.report.analysis import cells, difference, pictures, render_analysis


def rows(scale: float, layers: int = 4) -> list[AnalysisRow]:
    whole = AnalysisRow(probe="accuracy", layer="", quantity="accuracy", value=90 * scale, interval=(88, 92), unit="%")
    of_layers = [
        AnalysisRow(probe="conditioning", layer=f"l{i}", quantity="condition number", value=scale * 10.0**i)
        for i in range(layers)
    ]
    return [whole, *of_layers]


def test_the_page_has_the_table_and_a_picture_of_what_layers_have() -> None:
    pytest.importorskip("jinja2")
    answer = Analysis(
        model="<net>", samples=10, rows=rows(1.0), against="other", against_rows=rows(0.5), notes=["a note"]
    )
    page = render_analysis(answer)
    assert "&lt;net&gt;" in page and "<net>" not in page and "a note" in page
    assert "90 % [88, 92]" in page and "+45" in page
    assert page.count("<svg viewBox") >= 1 and "l3: 1000" in page


def test_quantities_of_few_layers_are_not_drawn() -> None:
    assert not pictures(Analysis(model="net", samples=1, rows=rows(1.0, layers=2)))
    assert len(pictures(Analysis(model="net", samples=1, rows=rows(1.0)))) == 1


def test_what_only_one_network_has_is_shown_as_such() -> None:
    (mine,) = rows(1.0, 0)
    answer = Analysis(model="net", samples=1, rows=[mine], against="other", against_rows=[])
    assert cells(answer, (mine, None))[-2:] == ["–", ""] and difference(None, mine) == ""
