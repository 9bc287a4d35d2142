"""The sweep over network families as tables: what was found, what can be cut, and what cannot, with why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sartor.report.text import grid

Row = Mapping[str, Any]
HEADS = ("network", "parameters", "axes", "can be cut", "on an axis", "runs", "exact", "trains", "exports", "seconds")


def totals(rows: Sequence[Row]) -> dict[str, Any]:
    """What a set comes to.

    Returns:
        {"models", "discovered", "groups", "realised", "cut" (models with anything to cut), "run", "proved" (models with
        an exact group), "exact", "trained", "exports" (asked), "exported", "covered" (models with more than 99 % of
        their parameters on an axis)}.
    """
    cut = [r for r in rows if r.get("realised")]
    return {
        "models": len(rows),
        "discovered": sum(bool(r.get("discovered")) for r in rows),
        "groups": sum(r.get("groups") or 0 for r in rows),
        "realised": sum(r.get("realised") or 0 for r in rows),
        "cut": len(cut),
        "run": sum(bool(r.get("runs") and r.get("shapes")) for r in cut),
        "proved": sum(r.get("exact") is not None for r in cut),
        "exact": sum(r.get("exact") is True for r in cut),
        "trained": sum(bool(r.get("trains")) for r in cut),
        "exports": sum(r.get("exports") is not None for r in cut),
        "exported": sum(r.get("exports") is True for r in cut),
        "covered": sum((r.get("coverage") or 0) > 0.99 for r in rows),
    }


def by_set(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of every set, in order."""
    found: dict[str, list[Row]] = {}
    for r in rows:
        found.setdefault(r["set"], []).append(r)
    return found


def cells(row: Row) -> list[str]:
    """One line."""
    if not row.get("discovered"):
        return [row["name"], *[""] * (len(HEADS) - 1)]
    cut = bool(row.get("realised"))
    return [
        row["name"], f"{row['params']:,}", str(row["groups"]), str(row["realised"]), f"{100 * row['coverage']:.1f} %",
        _said(row["runs"] and row["shapes"]) if cut else "", _said(row["exact"]) if cut else "",
        _said(row["trains"]) if cut else "", _said(row["exports"]) if cut else "", f"{row['seconds']:.2f}",
    ]  # fmt: skip


def discovery_table(answer: Mapping[str, Any]) -> Table:
    """Every network for the terminal; under each, what failed."""
    table = grid(*HEADS)
    for row in answer["rows"]:
        table.add_row(*(Text(c) for c in cells(row)))
        for stage, why in row.get("why", {}).items():
            table.add_row(Text(f"  {stage}: {why}"[:110], style="dim"))
    return table


def discovery_markdown(answer: Mapping[str, Any]) -> str:
    """A summary by set, every network, and every failure in its own words."""
    rows: Sequence[Row] = answer["rows"]
    known = answer.get("environment") or {}
    versions = known.get("versions") or {}
    said = [f"{p} {v}" for p, v in {"torch": versions.get("torch"), **(answer.get("libraries") or {})}.items() if v]
    heads = ["set", "models", "discovered", "axes of 8 or more", "can be cut", "cut models that run", "exact", "train"]
    asked = any(r.get("exports") is not None for r in rows)
    heads += ["export"] if asked else []
    heads.append("over 99 % of the parameters on an axis")
    summary = [heads, ["---"] * len(heads)]
    for name, mine in by_set(rows).items():
        t = totals(mine)
        line = [
            name, str(t["models"]), str(t["discovered"]), str(t["groups"]), str(t["realised"]),
            f"{t['run']} of {t['cut']}", f"{t['exact']} of {t['proved']}", f"{t['trained']} of {t['cut']}",
        ]  # fmt: skip
        line += [f"{t['exported']} of {t['exports']}"] if asked else []
        summary.append([*line, f"{t['covered']} of {t['models']}"])
    parts = [
        f"Measured with {', '.join(said)} on {known.get('cpu', 'a CPU')}, one thread." if said else "",
        _grid(summary),
    ]
    for name, mine in by_set(rows).items():
        parts.append(f"## {name}\n\n{_grid([list(HEADS), ['---'] * len(HEADS), *map(cells, mine)])}")
        failed = [f"- `{r['name']}`, {stage}: {why}" for r in mine for stage, why in r.get("why", {}).items()]
        if failed:
            parts.append("What was left whole or failed, and why:\n\n" + "\n".join(failed))
    return "\n\n".join(p for p in parts if p)


def _grid(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)


def _said(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "NO"
