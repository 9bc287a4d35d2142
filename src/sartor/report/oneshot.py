"""Tables of the one-shot study: one line per recipe, one column per share of the MACs and repair state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from sartor.report.text import grid

STATES = {"cut": "cut only", "norm": "batch norms re-estimated", "repaired": "repaired"}
Row = Mapping[str, Any]


def states_of(rows: Sequence[Row]) -> list[str]:
    """The states for which any row has a value, in order."""
    return [s for s in STATES if any(r.get(s) is not None for r in rows)]


def heads(rows: Sequence[Row]) -> list[str]:
    """Heads of the columns of `lines`."""
    states = states_of(rows)
    figures = [f"{100 * share:g} % of MACs, {STATES[s]}" for share in shares_of(rows) for s in states]
    return ["recipe", *figures, "decision time (s)"]


def shares_of(rows: Iterable[Row]) -> list[float]:
    """The shares of the MACs, descending."""
    return sorted({r["asked"] for r in rows}, reverse=True)


def lines(rows: Sequence[Row]) -> list[list[str]]:
    """One line per recipe, ordered by quality at the second smallest share; methods of Sartor before those of peers.

    "not reached" marks a share that could not be reached, a dash a state that does not exist for the network.
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
    table = []
    for _, name in sorted(names, key=rank):
        mine = [by[name, a] for a in shares if (name, a) in by]
        line = [name]
        for a in shares:
            row = by.get((name, a))
            for s in states:
                line.append(_figure(row, s, best[a, s]))
        took = [r["decision_s"] for r in mine if r.get("decision_s") is not None]
        table.append([*line, f"{min(took):.1f}" if took else "–"])
    return table


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
    """The rows of one network for the terminal."""
    table = grid(*heads(network["rows"]))
    for line in lines(network["rows"]):
        table.add_row(*(Text(c.strip("*"), style="bold" if c.startswith("**") else "") for c in line))
    return table


def oneshot_markdown(result: Mapping[str, Any]) -> str:
    """The table of every network with its data and machine, as Markdown.

    Args:
        result: the object of `bench oneshot --json`.
    """
    parts = [_caption(result)]
    for network in result["networks"]:
        rows = network["rows"]
        if not rows:
            continue
        original = f"Original: {network['original']:.2f} % on {network['test_samples']:,} test samples"
        parts.append(f"### {network['name']}\n\n{original}; {network['calibration']:,} calibration samples.")
        table = [heads(rows), ["---"] * len(heads(rows)), *lines(rows)]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in table))
        missed = [f"- {r['recipe']} at {100 * r['asked']:g} %: {r['why']}" for r in rows if r.get("why")]
        if missed:
            parts.append("Not reached:\n\n" + "\n".join(missed))
        over = [r for r in rows if r.get("peer") and r.get("macs") is not None]
        if over:
            far = max(over, key=lambda r: abs(r["macs"] / r["asked"] - 1))
            parts.append(
                f"Peers take a ratio of channels, not a share of the MACs; the one furthest from its share, "
                f"{far['recipe']} at {100 * far['asked']:g} %, has {100 * far['macs']:.1f} % of the MACs."
            )
    return "\n\n".join(parts)


def _caption(result: Mapping[str, Any]) -> str:
    environment = result.get("environment") or {}
    machine = [str(environment[k]) for k in ("cpu", "os") if environment.get(k)]
    versions = environment.get("versions") or {}
    machine += [f"{p} {versions[p]}" for p in ("torch",) if versions.get(p)]
    return (
        f"Top-1 accuracy in percent after one cut without training, seed {result['seed']}. "
        f"Machine: {', '.join(machine)}. Bold: best of its column."
    )
