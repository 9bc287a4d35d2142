"""Tables of the discovery study: which axes of each network were found, which can be cut, and what failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sartor.report.text import grid

Row = Mapping[str, Any]
HEADS = (
    "network", "parameters", "axes found (8 or more units)", "axes that can be cut",
    "share of parameters on a found axis", "cut network runs", "equals the zero-masked original",
    "trains one step", "exports", "discovery, CPU seconds",
)  # fmt: skip


def totals(rows: Sequence[Row]) -> dict[str, Any]:
    """Counts over the networks of a set.

    Returns:
        {"models", "discovered", "groups", "realised", "cut" (models with an axis that can be cut), "run", "proved"
        (models with a group that can be compared exactly), "exact", "trained", "exports" (models whose export was
        tried), "exported", "covered" (models with more than 99 % of their parameters on a found axis)}.
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
    """The rows of every set, in order."""
    sets: dict[str, list[Row]] = {}
    for r in rows:
        sets.setdefault(r["set"], []).append(r)
    return sets


def cells(row: Row) -> list[str]:
    """The cells of one network, as many as HEADS."""
    if not row.get("discovered"):
        return [row["name"], *[""] * (len(HEADS) - 1)]
    cut = bool(row.get("realised"))
    return [
        row["name"], f"{row['params']:,}", str(row["groups"]), str(row["realised"]), f"{100 * row['coverage']:.1f} %",
        _yes_no(row["runs"] and row["shapes"]) if cut else "", _yes_no(row["exact"]) if cut else "",
        _yes_no(row["trains"]) if cut else "", _yes_no(row["exports"]) if cut else "", f"{row['seconds']:.2f}",
    ]  # fmt: skip


def discovery_table(answer: Mapping[str, Any]) -> Table:
    """Every network for the terminal; below each, what failed."""
    table = grid(*HEADS)
    for row in answer["rows"]:
        table.add_row(*(Text(c) for c in cells(row)))
        for stage, why in row.get("why", {}).items():
            table.add_row(Text(f"  {stage}: {why}"[:110], style="dim"))
    return table


def discovery_markdown(answer: Mapping[str, Any]) -> str:
    """A summary by set, a table of every network, and the message of every failure, as Markdown."""
    rows: Sequence[Row] = answer["rows"]
    environment = answer.get("environment") or {}
    torch_version = (environment.get("versions") or {}).get("torch")
    versions = [f"{p} {v}" for p, v in {"torch": torch_version, **(answer.get("libraries") or {})}.items() if v]
    heads = [
        "set", "models", "models traced", "axes found (8 or more units)", "axes that can be cut", "cut models that run",
        "cut models equal to the zero-masked original", "cut models that train",
    ]  # fmt: skip
    with_exports = any(r.get("exports") is not None for r in rows)
    heads += ["cut models that export"] if with_exports else []
    heads.append("models with over 99 % of their parameters on a found axis")
    summary = [heads, ["---"] * len(heads)]
    for name, mine in by_set(rows).items():
        t = totals(mine)
        line = [
            name, str(t["models"]), str(t["discovered"]), str(t["groups"]), str(t["realised"]),
            f"{t['run']} of {t['cut']}", f"{t['exact']} of {t['proved']}", f"{t['trained']} of {t['cut']}",
        ]  # fmt: skip
        line += [f"{t['exported']} of {t['exports']}"] if with_exports else []
        summary.append([*line, f"{t['covered']} of {t['models']}"])
    parts = [
        f"Measured with {', '.join(versions)} on {environment.get('cpu', 'a CPU')}, one thread." if versions else "",
        _grid(summary),
    ]
    for name, mine in by_set(rows).items():
        parts.append(f"## {name}\n\n{_grid([list(HEADS), ['---'] * len(HEADS), *map(cells, mine)])}")
        failed = [f"- `{r['name']}`, {stage}: {why}" for r in mine for stage, why in r.get("why", {}).items()]
        if failed:
            parts.append("What failed or was not cut, and why:\n\n" + "\n".join(failed))
    return "\n\n".join(p for p in parts if p)


def _grid(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines)


def _yes_no(value: bool | None) -> str:
    return "–" if value is None else "yes" if value else "NO"
