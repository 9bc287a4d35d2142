"""Limits on latency against what was measured: the rows of `sartor bench latency`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sartor.report.text import grid

Row = Mapping[str, Any]
WINDOW = (0.93, 1.03)  # measured / limit that counts as met and not overdone
HEADS = (
    "network", "target", "limit", "measured", "95 %", "measured / limit", "MACs left", "in the loop", "predicted",
    "rounds", "seconds",
)  # fmt: skip


def kept_promises(rows: Sequence[Row]) -> dict[str, Any]:
    """{"cases", "reached" (a network was found), "within" (WINDOW), "worst" (largest measured / limit), "median"}."""
    found = [r["again"] / r["limit"] for r in rows if r.get("again") is not None]
    return {
        "cases": len(rows), "reached": len(found), "within": sum(WINDOW[0] <= q <= WINDOW[1] for q in found),
        "worst": max(found, default=None), "median": statistics.median(found) if found else None,
    }  # fmt: skip


def heads(rows: Sequence[Row]) -> tuple[str, ...]:
    """With a column for the machine where it was busy in any of the rows."""
    return (*HEADS, "machine") if any(r.get("noisy") for r in rows) else HEADS


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """One a row, as many cells as `heads`."""
    found = [cells(row) for row in rows]
    if len(heads(rows)) > len(HEADS):
        found = [[*line, _machine(row)] for line, row in zip(found, rows)]
    return found


def _machine(row: Row) -> str:
    return "–" if row.get("noisy") is None else "busy" if row["noisy"] else "quiet"  # rows of old did not say


def cells(row: Row) -> list[str]:
    """One line."""
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


def promise_table(answer: Mapping[str, Any]) -> Table:
    """For the terminal; under a limit that was not reached, why."""
    rows: Sequence[Row] = answer["rows"]
    table = grid(*heads(rows))
    for row, line in zip(rows, lines(rows)):
        table.add_row(*(Text(c) for c in line))
        if row.get("why"):
            table.add_row(Text(f"  {row['why']}"[:110], style="dim"))
    return table


def promise_markdown(answer: Mapping[str, Any]) -> str:
    """The table, its sum, and what could not be reached in its own words."""
    rows: Sequence[Row] = answer["rows"]
    said, known = kept_promises(rows), answer.get("environment") or {}
    versions = ", ".join(f"{k} {v}" for k, v in (known.get("versions") or {}).items() if k in ("torch", "onnxruntime"))
    table = [list(heads(rows)), ["---"] * len(heads(rows)), *lines(rows)]
    parts = [
        f"Measured with {versions} on {known.get('cpu', 'a CPU')}; recipe `{answer['recipe']}`, fresh weights.",
        "\n".join("| " + " | ".join(line) + " |" for line in table),
        f"{said['within']} of {said['cases']} within {WINDOW[0]}–{WINDOW[1]} of the limit"
        + (f"; the largest is {said['worst']:.3f}, the median {said['median']:.3f}." if said["reached"] else "."),
    ]
    failed = [f"- {_case(r)}: {r['why']}" for r in rows if r.get("why")]
    busy = [f"- {_case(r)}: the machine was busy: {r['noisy']}; the interval is wide" for r in rows if r.get("noisy")]
    return "\n\n".join([*parts, *(["\n".join(failed + busy)] if failed or busy else [])])


def _case(row: Row) -> str:
    return f"{row['network']}, {row['target']}, {100 * row['limit']:g} %"


def _percent(x: float | None) -> str:
    return "–" if x is None else f"{100 * x:.1f} %"
