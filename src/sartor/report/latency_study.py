"""Tables of `sartor bench latency`: limits on latency against the latency measured afterwards."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sartor.report.text import grid

Row = Mapping[str, Any]
WINDOW = (0.93, 1.03)  # measured / limit in this interval: the limit is met, without cutting much more than needed
HEADS = (
    "network", "target", "latency limit", "measured afterwards", "95 % interval", "measured / limit", "MACs kept",
    "measured in the search", "predicted by tables", "search rounds", "seconds",
)  # fmt: skip


def limit_summary(rows: Sequence[Row]) -> dict[str, Any]:
    """{"cases", "reached" (a network was found), "within" (WINDOW), "worst" (largest measured / limit), "median"}."""
    quotients = [r["again"] / r["limit"] for r in rows if r.get("again") is not None]
    return {
        "cases": len(rows), "reached": len(quotients), "within": sum(WINDOW[0] <= q <= WINDOW[1] for q in quotients),
        "worst": max(quotients, default=None), "median": statistics.median(quotients) if quotients else None,
    }  # fmt: skip


def heads(rows: Sequence[Row]) -> tuple[str, ...]:
    """Heads of the columns, with one for the machine if it was busy in any of the rows."""
    return (*HEADS, "machine") if any(r.get("noisy") for r in rows) else HEADS


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """One line for every row, with as many cells as `heads`."""
    table = [cells(row) for row in rows]
    if len(heads(rows)) > len(HEADS):
        table = [[*line, _machine(row)] for line, row in zip(table, rows)]
    return table


def _machine(row: Row) -> str:
    return (
        "–" if row.get("noisy") is None else "busy" if row["noisy"] else "quiet"
    )  # None: rows of older versions do not record it


def cells(row: Row) -> list[str]:
    """The cells of one row, as many as HEADS."""
    start = [row["network"], row["target"], f"{100 * row['limit']:g} %"]
    took = f"{row['seconds']:.0f}"
    if row.get("again") is None:
        return [*start, "not reached", "", "", "", "", "", str(row["rounds"]), took]
    low, high = row["interval"]
    return [
        *start, f"{100 * row['again']:.1f} %", f"{100 * low:.1f}–{100 * high:.1f} %",
        f"{row['again'] / row['limit']:.3f}", f"{100 * row['macs']:.1f} %", _percent(row["ratio"]),
        _percent(row["predicted"]), str(row["rounds"]), took,
    ]  # fmt: skip


def latency_table(answer: Mapping[str, Any]) -> Table:
    """The table for the terminal; below a limit that was not reached, why."""
    rows: Sequence[Row] = answer["rows"]
    table = grid(*heads(rows))
    for row, line in zip(rows, lines(rows)):
        table.add_row(*(Text(c) for c in line))
        if row.get("why"):
            table.add_row(Text(f"  {row['why']}"[:110], style="dim"))
    return table


def latency_markdown(answer: Mapping[str, Any]) -> str:
    """The table, its summary, and the messages of limits that could not be reached, as Markdown."""
    rows: Sequence[Row] = answer["rows"]
    total, environment = limit_summary(rows), answer.get("environment") or {}
    installed = environment.get("versions") or {}
    versions = ", ".join(f"{p} {installed[p]}" for p in ("torch", "onnxruntime") if p in installed)
    table = [list(heads(rows)), ["---"] * len(heads(rows)), *lines(rows)]
    parts = [
        f"Measured with {versions} on {environment.get('cpu', 'a CPU')}; recipe `{answer['recipe']}`, random weights.",
        "\n".join("| " + " | ".join(line) + " |" for line in table),
        f"{total['within']} of {total['cases']} within {WINDOW[0]}–{WINDOW[1]} of the limit"
        + (f"; the largest is {total['worst']:.3f}, the median {total['median']:.3f}." if total["reached"] else "."),
    ]
    failed = [f"- {_case(r)}: {r['why']}" for r in rows if r.get("why")]
    busy = [f"- {_case(r)}: the machine was busy: {r['noisy']}; the interval is wide" for r in rows if r.get("noisy")]
    return "\n\n".join([*parts, *(["\n".join(failed + busy)] if failed or busy else [])])


def _case(row: Row) -> str:
    return f"{row['network']}, {row['target']}, {100 * row['limit']:g} %"


def _percent(x: float | None) -> str:
    return "–" if x is None else f"{100 * x:.1f} %"
