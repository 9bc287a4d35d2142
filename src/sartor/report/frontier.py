"""A frontier, recipes at several shares of the MACs, as rows, terminal table, CSV and one self-contained page."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from sartor.report import sentences
from sartor.report.curves import Line, curves, look_of
from sartor.report.fields import flat
from sartor.report.template import filled, markup_type
from sartor.report.text import grid
from sartor.units import show_count, show_percent

_QUALITY = "quality"  # what the metric is called
_PARTS = {"test": "test", "val": "validation"}
_COLUMNS = (
    "recipe", "asked", "status", "macs", "params", "val", "test", "gap", "latency_ratio", "latency_low", "latency_high",
    "original_ms", "fitted_ms", "seconds", "why",
)  # fmt: skip


@dataclass(frozen=True)
class PointRow:
    """One network of the frontier; every field is text."""

    recipe: str
    asked: str
    macs: str
    params: str
    quality: tuple[str, ...]  # on every part of `parts`
    gap: str
    latency: str
    seconds: str
    why: str  # why the share was not reached; "": it was


@dataclass(frozen=True)
class Picture:
    """One chart of the page."""

    title: str
    lead: str
    svg: str


def parts(result: Mapping[str, Any]) -> list[str]:
    """The parts of the data that quality was evaluated on: of "test" and "val", those that exist."""
    return [p for p in _PARTS if result["original"][p] is not None]


def point_rows(result: Mapping[str, Any]) -> list[PointRow]:
    """The original, then every point in the order of the result."""
    judged, original = parts(result), result["original"]
    rows = [
        PointRow(
            "original", "", show_percent(1), show_percent(1), tuple(f"{original[p]:.2f}" for p in judged), "0.0 %",
            "100 %" if result["target"] else "", "", "",
        )
    ]  # fmt: skip
    for p in result["points"]:
        met = p["status"] == "met"
        timed = p["latency"]
        latency = ""
        if timed:
            low, high = timed["interval"]
            latency = f"{100 * timed['ratio']:.0f} % ({100 * low:.0f} to {100 * high:.0f})"
        rows.append(
            PointRow(
                str(p["recipe"]), f"{100 * p['asked']:g} %", show_percent(p["macs"]) if met else "not reached",
                show_percent(p["params"]) if met else "",
                tuple(f"{p[q]:.2f}" if p[q] is not None else "" for q in judged),
                "" if p["gap"] is None else show_percent(p["gap"]), latency, f"{p['seconds']:.1f} s",
                "" if met else str(p["why"]),
            )
        )  # fmt: skip
    return rows


def headings(result: Mapping[str, Any]) -> list[str]:
    """Heads of the columns of `cells`."""
    quality = [f"{_QUALITY}, {_PARTS[p]}" for p in parts(result)]
    timed = [f"latency on {result['target']}, cut / original (95 % interval)"] if result["target"] else []
    return [
        "recipe",
        "limit on MACs",
        "MACs kept",
        "parameters kept",
        *quality,
        "relative output error",
        *timed,
        "time taken",
    ]


def cells(row: PointRow, result: Mapping[str, Any]) -> list[str]:
    """The cells of one network, as many as `headings`."""
    timed = [row.latency] if result["target"] else []
    return [row.recipe, row.asked, row.macs, row.params, *row.quality, row.gap, *timed, row.seconds]


def frontier_table(result: Mapping[str, Any]) -> Table:
    """The frontier for the terminal; shares that were not reached are dimmed."""
    table = grid(*headings(result))
    for row in point_rows(result):
        line = [Text(c) for c in cells(row, result)]
        table.add_row(*line, style="dim" if row.why else None)
    return table


def frontier_csv(result: Mapping[str, Any]) -> str:
    """Every point as one line of numbers; costs are shares of the original's."""
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for p in result["points"]:
        timed = p["latency"] or {}
        low, high = timed.get("interval") or (None, None)
        writer.writerow({**p, **timed, "latency_ratio": timed.get("ratio"), "latency_low": low, "latency_high": high})
    return out.getvalue()


def pictures(result: Mapping[str, Any]) -> list[Picture]:
    """Charts of quality and relative output error against MACs and, if networks were timed, against latency."""
    judged, target = parts(result), result["target"]
    axes = [("macs", "share of the MACs kept", "MACs")]
    if target:
        axes.insert(0, ("latency", f"latency on {target}, as a share of the original's", f"latency on {target}"))
    charts = []
    for axis, across, short in axes:
        if judged:
            best = judged[0]
            name = _QUALITY
            svg = curves(
                _lines(result, axis, best), title=f"{name} against {short}", across=across,
                original=result["original"][best],
            )  # fmt: skip
            charts.append(Picture(f"{name.capitalize()} against {short}", f"On the {_PARTS[best]} data.", svg))
        svg = curves(
            _lines(result, axis, "gap"), title=f"relative output error against {short}", across=across,
            logarithmic=True, percent=True,
        )  # fmt: skip
        lead = (
            "Squared difference to the original's outputs, divided by their squared norm, on calibration inputs that "
            "were not used for scores or repair. Needs no labels; lower is better."
        )
        charts.append(Picture(f"Relative output error against {short}", lead, svg))
    return [p for p in charts if p.svg]


def _lines(result: Mapping[str, Any], axis: str, value: str) -> list[Line]:
    lines = []
    for i, name in enumerate(result["recipes"]):
        points = []
        for p in result["points"]:
            x = (p["latency"] or {}).get("ratio") if axis == "latency" else p["macs"]
            y = p[value]
            if p["recipe"] == name and x is not None and y is not None:
                shown = show_percent(y) if value == "gap" else f"{y:.2f}"
                points.append((x, y, f"{name} at {show_percent(x)}: {shown}"))
        lines.append(Line(str(name), tuple(points), i))
    return lines


def render_frontier(result: Mapping[str, Any]) -> str:
    """The page of a frontier: opens offline, in light and dark; all text of the result is escaped.

    Args:
        result: the object of `frontier --json`.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    markup = markup_type("the page of a frontier")
    drawn = [(p, markup(p.svg)) for p in pictures(result)]
    calibration, original = result["calibration"], result["original"]
    values = {
        "model": str(result.get("model") or "the network"),
        "date": sentences.date_of(result["environment"]),
        "headline": headline(result),
        "lead": f"The original has {show_count(original['macs'])} MACs and {show_count(original['params'])} "
        f"parameters. Networks were cut and repaired with {calibration['samples']} calibration samples, and their "
        f"output error was measured on {calibration['held_out']} others; nothing was trained.",
        "pictures": drawn,
        "key": [(str(name), look_of(i)) for i, name in enumerate(result["recipes"])],
        "headings": headings(result),
        "rows": [(cells(row, result), row.why) for row in point_rows(result)],
        "notes": result["notes"],
        "environment": flat(result["environment"]),
    }
    return filled("frontier.html.j2", values)


def headline(result: Mapping[str, Any]) -> str:
    """The best network at the smallest share of the MACs that was reached, in one sentence."""
    judged = parts(result)
    reached = [p for p in result["points"] if p["status"] == "met"]
    if not reached:
        return "None of the requested shares of the MACs can be reached."
    least = min(p["asked"] for p in reached)
    here = [p for p in reached if p["asked"] == least]
    if judged and all(p[judged[0]] is not None for p in here):
        best = max(here, key=lambda p: p[judged[0]])
        value = f"{_QUALITY} {best[judged[0]]:.2f}"
        value += f", original {result['original'][judged[0]]:.2f}"
    else:
        best = min(here, key=lambda p: p["gap"])
        value = f"relative output error {show_percent(best['gap'])}"
    return f"At {100 * least:g} % of the MACs, {best['recipe']} is best: {value}."


def write_frontier(result: Mapping[str, Any], folder: str | Path) -> dict[str, str]:
    """Write frontier.html, frontier.csv and frontier.json, each atomically.

    Returns:
        Kind of file -> path.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    import json

    from sartor.export.files import atomic_write
    from sartor.types import to_plain

    place = Path(folder)
    files = {kind: str(place / f"frontier.{kind}") for kind in ("html", "csv", "json")}
    whole = {**result, "files": files}
    atomic_write(files["html"], render_frontier(whole))
    atomic_write(files["csv"], frontier_csv(whole))
    atomic_write(files["json"], json.dumps(to_plain(whole), indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return files
