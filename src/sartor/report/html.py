"""The HTML report: rows of a result in one self-contained page, without scripts or network access."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sartor.report import rows, sentences, svg
from sartor.report.run_reader import as_record, run_folder
from sartor.report.template import filled, markup_type
from sartor.run.record import Record


def render(run: Record | Mapping[str, Any]) -> str:
    """The page of one run.

    Args:
        run: a record, or the object of `fit --json`. Tables that are empty are left out of the page.

    Returns:
        HTML that opens offline, in light and dark, and can be printed. All text of the result is escaped.

    Raises:
        CorruptFile: the object lacks a field, or one is of the wrong kind.
        MissingExtra: jinja2 is not installed.
    """
    Markup = markup_type("the HTML report")
    result = as_record(run)
    latency, quality = rows.latency_rows(result.latency), rows.quality_rows(result.quality)
    kept = rows.kept_rows(result)
    epochs, trail, times = rows.epoch_rows(result), rows.trail_rows(result), rows.time_rows(result)
    met, verdict = sentences.verdict(result)
    values = {
        "model": sentences.model_name(result),
        "recipe": sentences.recipe_name(result),
        "asked": sentences.asked_budget(result),
        "date": sentences.date_of(result.environment),
        "headline": sentences.headline(result),
        "met": met,
        "verdict": verdict,
        "notes": result.notes,
        "budget": rows.budget_rows(result),
        "counted": rows.counted_rows(result.counted),
        "tiles": rows.tile_rows(result),
        "quality": quality,
        "metric": sentences.quality_name(result),
        "test": rows.quality_rows(result.test),
        "quality_picture": Markup(svg.quality_steps(quality, rows.quality_floor(result))),
        "latency": [(row, Markup(svg.latency_strip(row))) for row in latency],
        "kept": kept,
        "kept_summary": sentences.kept_summary(result),
        "kept_picture": Markup(svg.kept_bars(kept)),
        "frozen": rows.frozen_rows((f.axis, f.reason) for f in result.frozen),
        "analysis": rows.analysis_rows(result),
        "proof": sentences.proof_sentence(result),
        "proved": result.proof.passed,
        "epochs": epochs,
        "training_picture": Markup(svg.training_curve(epochs)),
        "trail": trail,
        "trail_picture": Markup(svg.trail_chart(trail, rows.trail_limit(result))),
        "times": times,
        "total": sentences.total_seconds(result),
        "time_picture": Markup(svg.time_bar(times)),
        "recipe_fields": rows.recipe_rows(result),
        "files": rows.file_rows(result),
        "environment": rows.environment_rows(result),
    }
    return filled("page.html.j2", values)


def write_report(run: str | Path | Record | Mapping[str, Any], path: str | Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        run: a run folder, its result.json, a record, or the object of `fit --json`.
        path: of the page; None: report.html in the run folder.

    Returns:
        The path written. An existing page is replaced atomically.

    Raises:
        BadInput, CorruptFile: as `read_result`.
    """
    from sartor.export.files import atomic_write
    from sartor.export.manifest import replacing_file

    result = as_record(run)
    if path is None:
        folder = run_folder(run) if isinstance(run, str | Path) else Path(result.run or ".")
        path = folder / "report.html"
    target = Path(path)
    page = render(result)
    with replacing_file(target) as place:
        atomic_write(place, page)
    return target
