"""The HTML report: rows of a result in one self-contained page, without scripts or network access."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sartor.report import rows, sentences, svg
from sartor.report.run_reader import read_result
from sartor.report.template import filled, markup_type


def render(result: Mapping[str, Any]) -> str:
    """The page of one result.

    Args:
        result: the object of `fit --json`, or what `read_result` returns. Missing parts are left out of the page.

    Returns:
        HTML that opens offline, in light and dark, and can be printed. All text of the result is escaped.

    Raises:
        MissingExtra: jinja2 is not installed.
    """
    Markup = markup_type("the HTML report")
    latency, quality, kept = rows.latency_rows(result), rows.quality_rows(result), rows.kept_rows(result)
    epochs, trail, times = rows.epoch_rows(result), rows.trail_rows(result), rows.time_rows(result)
    met, verdict = sentences.verdict(result)
    values = {
        "model": sentences.model_name(result),
        "recipe": sentences.recipe_name(result),
        "asked": sentences.asked_budget(result),
        "date": sentences.run_date(result),
        "headline": sentences.headline(result),
        "met": met,
        "verdict": verdict,
        "notes": [str(n) for n in result.get("notes") or ()],
        "budget": rows.budget_rows(result),
        "counted": rows.counted_rows(result),
        "tiles": rows.tile_rows(result),
        "quality": quality,
        "metric": sentences.quality_name(result),
        "test": rows.quality_rows(result, "test"),
        "quality_picture": Markup(svg.quality_steps(quality, rows.quality_floor(result))),
        "latency": [(row, Markup(svg.latency_strip(row))) for row in latency],
        "kept": kept,
        "kept_summary": sentences.kept_summary(result),
        "kept_picture": Markup(svg.kept_bars(kept)),
        "frozen": rows.frozen_rows(result),
        "proof": sentences.proof_sentence(result),
        "proved": sentences.proved(result),
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


def write_report(run: str | Path | Mapping[str, Any], path: str | Path | None = None) -> Path:
    """Write the page of a run.

    Args:
        run: a run folder, its result.json, or a result object.
        path: of the page; None: report.html in the run folder.

    Returns:
        The path written. An existing page is replaced atomically.
    """
    result = run if isinstance(run, Mapping) else read_result(run)
    if path is None:
        path = Path(str(result.get("run") or ".") if isinstance(run, Mapping) else _folder(run)) / "report.html"
    from sartor.export.files import atomic_write

    target = Path(path)
    atomic_write(target, render(result))
    return target


def _folder(run: str | Path) -> Path:
    path = Path(run)
    return path.parent if path.suffix == ".json" else path
