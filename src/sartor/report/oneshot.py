"""The one-shot bench as tables: criteria down, shares and repairs across."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sartor.report.text import grid

STATES = {"cut": "cut only", "norm": "norms refreshed", "repaired": "repaired"}
Row = Mapping[str, Any]


def states_of(rows: Sequence[Row]) -> list[str]:
    """The states that any row has a figure for, in order."""
    return [s for s in STATES if any(r.get(s) is not None for r in rows)]


def heads(rows: Sequence[Row]) -> list[str]:
    """Titles of the columns of `lines`."""
    states = states_of(rows)
    figures = [f"{100 * share:g} %: {STATES[s]}" for share in shares_of(rows) for s in states]
    return ["recipe", *figures, "seconds to decide"]


def shares_of(rows: Iterable[Row]) -> list[float]:
    """From the most that stays to the least."""
    return sorted({r["asked"] for r in rows}, reverse=True)


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """One line a recipe, the best at the smallest share but one first, own methods before peers'.

    A share that could not be reached is "not reached", a state that does not exist for a network a dash.
    """
    shares, states = shares_of(rows), states_of(rows)
    names = list(dict.fromkeys((bool(r.get("peer")), r["recipe"]) for r in rows))
    by = {(r["recipe"], r["asked"]): r for r in rows}
    judged = shares[-2] if len(shares) > 1 else shares[-1]

    def rank(key: tuple[bool, str]) -> tuple[bool, float]:
        row = by.get((key[1], judged), {})
        return key[0], -max((row[s] for s in STATES if row.get(s) is not None), default=-1.0)

    best = {(a, s): max((r[s] for r in rows if r["asked"] == a and r.get(s) is not None), default=None)
            for a in shares for s in states}  # fmt: skip
    found = []
    for _, name in sorted(names, key=rank):
        mine = [by[name, a] for a in shares if (name, a) in by]
        line = [name]
        for a in shares:
            row = by.get((name, a))
            for s in states:
                line.append(_figure(row, s, best[a, s]))
        took = [r["decision_s"] for r in mine if r.get("decision_s") is not None]
        found.append([*line, f"{min(took):.1f}" if took else "–"])
    return found


def _figure(row: Row | None, state: str, best: float | None) -> str:
    if row is None:
        return ""
    if row.get("why"):
        return "not reached"
    value = row.get(state)
    if value is None:
        return "–"
    return f"**{value:.1f}**" if value == best else f"{value:.1f}"


def oneshot_table(network: Mapping[str, Any]) -> Table:
    """One network's rows for the terminal."""
    table = grid(*heads(network["rows"]))
    for line in lines(network["rows"]):
        table.add_row(*(Text(c.strip("*"), style="bold" if c.startswith("**") else "") for c in line))
    return table


def oneshot_markdown(result: Mapping[str, Any]) -> str:
    """Every network's table with what it was measured on.

    Args:
        result: the object of `bench oneshot --json`.
    """
    parts = [_caption(result)]
    for network in result["networks"]:
        rows = network["rows"]
        if not rows:
            continue
        whole = f"{network['original']:.2f} % whole on {network['test_samples']:,} test samples"
        parts.append(f"### {network['name']}\n\n{whole}; {network['calibration']:,} calibration samples.")
        table = [heads(rows), ["---"] * len(heads(rows)), *lines(rows)]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in table))
        missed = [f"- {r['recipe']} at {100 * r['asked']:g} %: {r['why']}" for r in rows if r.get("why")]
        if missed:
            parts.append("Not reached:\n\n" + "\n".join(missed))
        over = [r for r in rows if r.get("peer") and r.get("macs") is not None]
        if over:
            far = max(over, key=lambda r: abs(r["macs"] / r["asked"] - 1))
            parts.append(
                f"Peers choose by a ratio of channels; the one furthest from its share, {far['recipe']} at "
                f"{100 * far['asked']:g} %, has {100 * far['macs']:.1f} % of the MACs."
            )
    return "\n\n".join(parts)


def _caption(result: Mapping[str, Any]) -> str:
    known = result.get("environment") or {}
    machine = [str(known[k]) for k in ("cpu", "os") if known.get(k)]
    versions = known.get("versions") or {}
    machine += [f"{p} {versions[p]}" for p in ("torch",) if versions.get(p)]
    return (
        f"Top-1 in percent after one cut, no training, seed {result['seed']}. Machine: {', '.join(machine)}. "
        "Bold: best of its column."
    )
