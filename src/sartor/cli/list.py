"""`sartor list`: every method with its source, every target and whether it works on this machine."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.list_rows import Listing
from sartor.cli.options import AsJson


class Kind(StrEnum):
    """What can be listed."""

    criteria = "criteria"
    recipes = "recipes"
    targets = "targets"
    allocators = "allocators"
    data = "data"
    probes = "probes"


def list_(
    kind: Annotated[Kind, typer.Argument(help="What to list.")],
    as_json: AsJson = False,
) -> CommandResult:
    """List criteria, recipes, targets, allocators, data sources or probes, each with its description and source."""
    from rich.text import Text

    from sartor.report.text import grid

    rows = _rows(kind)
    last_head, last_cell = _LAST_COLUMN.get(kind, ("source", lambda row: str(row["source"])))
    table = grid("name", "description", last_head, left=3)
    for row in rows:
        last = Text(last_cell(row), style="dim")
        table.add_row(Text(row["name"], style="bold"), Text(row["summary"].rstrip(".")), last)
    return CommandResult(Listing.model_validate({kind.value: rows}).to_plain(), table)


def _availability(row: dict[str, Any]) -> str:
    return "yes" if row["available"] else f"no: {row['why_not'].split('does not work here: ')[-1]}"


_LAST_COLUMN = {Kind.targets: ("works on this machine", _availability)}  # of other kinds: the source


def _rows(kind: Kind) -> list[dict[str, Any]]:
    rows = [{"name": e.name, "source": e.source, "summary": e.summary} for e in _entries(kind)]
    if kind is Kind.targets:
        from sartor.measure import available

        state = {name: (works, why) for name, works, why in available()}
        for row in rows:
            row["available"], row["why_not"] = state[row["name"]]
    return rows


def _entries(kind: Kind) -> Any:
    if kind is Kind.criteria:
        from sartor.importance import CRITERIA

        return CRITERIA.entries()
    if kind is Kind.recipes:
        from sartor.recipes import RECIPES

        return RECIPES.entries()
    if kind is Kind.targets:
        from sartor.measure.targets import entries

        return entries()
    if kind is Kind.allocators:
        from sartor.allocate import ALLOCATORS

        return ALLOCATORS.entries()
    if kind is Kind.probes:
        from sartor.analysis import PROBES

        return PROBES.entries()
    from sartor.sources import SOURCES

    return SOURCES.entries()
