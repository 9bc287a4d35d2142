"""Tables for the terminal, from the same rows as the HTML report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from sartor.report import rows, sentences
from sartor.report.inspection import alike
from sartor.report.run_reader import as_record
from sartor.run.record import LatencyRow, Pair, Record


def summary(run: Record | Mapping[str, Any]) -> Group:
    """The summary of a run: headline, costs before and after, quality after each step, proof, verdict and notes.

    Args:
        run: a record, or the object of `fit --json`.
    """
    result = as_record(run)
    met, verdict = sentences.verdict(result)
    parts: list[Any] = [Text(sentences.headline(result), style="bold"), changes(result.latency, result.counted)]
    quality = quality_table(result)
    if quality is not None:
        parts.append(quality)
    parts.append(Text(sentences.proof_sentence(result)))
    parts.append(Text(("✓ " if met else "✗ ") + verdict, style="green" if met else "bold red"))
    parts += [Text(f"note: {note}", style="yellow") for note in result.notes]
    return Group(*parts)


def changes(latency: Iterable[LatencyRow], counted: Mapping[str, Pair]) -> Table:
    """Costs and latency, original against fitted."""
    table = grid("cost", "original", "fitted", "fitted / original")
    for row in [*rows.latency_tiles(latency), *rows.counted_rows(counted)]:
        table.add_row(Text(row.label), row.original, row.fitted, row.text)
    return table


def quality_table(result: Record) -> Table | None:
    """Quality after each step of the run; None if it was not evaluated."""
    steps = rows.quality_rows(result.quality)
    if not steps:
        return None
    table = grid(sentences.quality_name(result), *(row.step for row in steps))
    table.add_row("validation", *(row.text for row in steps))
    if len(steps) > 1:
        table.add_row("change to original", *(row.change for row in steps), style="dim")
    test = {row.step: row.text for row in rows.quality_rows(result.test)}
    if test:
        table.add_row("test", *(test.get(row.step, "") for row in steps))
    return table


def frozen_table(frozen: Iterable[tuple[str, str]], most: int = 6) -> Table:
    """Frozen axes, given as (axis, reason), by reason; at most `most` axes are listed for each reason."""
    table = grid("reason for not cutting", "number of axes", "axes", left=1)
    table.columns[2].justify = "left"
    for row in alike(rows.frozen_rows(frozen)):
        more = f", … {len(row.axes) - most} more" if len(row.axes) > most else ""
        table.add_row(Text(row.reason), str(len(row.axes)), Text(", ".join(row.axes[:most]) + more, style="dim"))
    return table


def grid(*titles: str, left: int = 1) -> Table:
    """An empty table in the common style; the first `left` columns are left-aligned, the others right-aligned."""
    table = Table(box=box.SIMPLE_HEAD, header_style="dim", pad_edge=False)
    for i, title in enumerate(titles):
        table.add_column(Text(title), justify="left" if i < left else "right", overflow="fold")
    return table
