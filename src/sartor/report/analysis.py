"""The page of an analysis: one table, and a picture of every quantity that several layers have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sartor.analysis.rows import Analysis, AnalysisRow, Pairing
from sartor.report.curves import Line, curves, look_of
from sartor.report.rows import show_reading
from sartor.report.template import filled, markup_type

_RATIO = 50.0  # from this ratio of the largest to the smallest value on, an axis is logarithmic
_FEWEST = 3  # layers of a quantity that is drawn


@dataclass(frozen=True)
class LayerPicture:
    """One quantity over the depth of the networks."""

    title: str
    lead: str
    svg: str


def render_analysis(answer: Analysis) -> str:
    """The page: opens offline, in light and dark; all text of the answer is escaped.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    markup = markup_type("the page of an analysis")
    names = [answer.model, *([] if answer.against is None else [answer.against])]
    values = {
        "model": answer.model,
        "headline": f"{answer.model} beside {answer.against}" if answer.against else f"{answer.model}, analysed",
        "lead": f"{answer.samples} samples; in brackets, 95 % confidence intervals.",
        "names": names,
        "rows": [cells(answer, pair) for pair in _pairs(answer) if not (pair[0] or pair[1]).layer],  # type: ignore[union-attr]
        "pictures": [(p, markup(p.svg)) for p in pictures(answer)],
        "key": [(name, look_of(i)) for i, name in enumerate(names)],
        "probes": [(p.name, p.source, p.bias) for p in answer.probes],
        "notes": answer.notes,
    }
    return filled("analysis.html.j2", values)


def write_analysis(answer: Analysis, path: str | Path) -> None:
    """Write the page, atomically."""
    from sartor.export.files import atomic_write

    atomic_write(path, render_analysis(answer))


def cells(answer: Analysis, pair: tuple[AnalysisRow | None, AnalysisRow | None]) -> list[str]:
    """Probe, quantity, the value of each network, and the difference if there are two."""
    row, other = pair
    of = row or other
    assert of is not None
    shown = [of.probe, of.quantity, reading(row)]
    return shown if answer.against_rows is None else [*shown, reading(other), difference(row, other)]


def reading(row: AnalysisRow | None) -> str:
    """A value with its unit and interval; a dash where there is no row."""
    return "–" if row is None else show_reading(row.value, row.unit, row.interval)


def difference(row: AnalysisRow | None, other: AnalysisRow | None) -> str:
    """The value less that of the other network; "": one of them is missing."""
    if row is None or other is None or row.value is None or other.value is None:
        return ""
    return f"{row.value - other.value:+.4g}"


def pictures(answer: Analysis) -> list[LayerPicture]:
    """One for each quantity of at least three layers."""
    networks = [(answer.model, answer.rows)]
    if answer.against is not None:
        networks.append((answer.against, answer.against_rows or []))
    found = []
    for probe, quantity in dict.fromkeys((r.probe, r.quantity) for r in answer.rows if r.layer):
        lines = [_line(name, rows, probe, quantity, i) for i, (name, rows) in enumerate(networks)]
        values = [y for line in lines for _, y, _ in line.points]
        if len(lines[0].points) < _FEWEST:
            continue
        positive = min(values) > 0
        logarithmic = positive and max(values) > _RATIO * min(values)
        unit = next((r.unit for r in answer.rows if (r.probe, r.quantity) == (probe, quantity)), "")
        svg = curves(lines, title=quantity, across="depth", logarithmic=logarithmic)
        title = f"{quantity[:1].upper()}{quantity[1:]}{', ' + unit if unit else ''}"
        found.append(LayerPicture(title, f"Of every layer, from the input to the output; probe {probe}.", svg))
    return found


def _line(name: str, rows: Sequence[AnalysisRow], probe: str, quantity: str, look: int) -> Line:
    mine = [r for r in rows if r.layer and (r.probe, r.quantity) == (probe, quantity)]
    last = max(1, len(mine) - 1)
    return Line(
        name,
        tuple((i / last, r.value, f"{r.layer}: {reading(r)}") for i, r in enumerate(mine) if r.value is not None),
        look,
    )


def _pairs(answer: Analysis) -> list[tuple[AnalysisRow | None, AnalysisRow | None]]:
    return Pairing(answer.rows, answer.against_rows or ()).pairs()
