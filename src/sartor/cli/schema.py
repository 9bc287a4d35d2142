"""`sartor schema`: the JSON schemas of files and of what commands print with --json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.options import AsJson
from sartor.errors import UnknownName


class Schema(NamedTuple):
    """A schema that can be printed."""

    summary: str  # what it describes
    make: Callable[[], dict[str, Any]]


def _record() -> dict[str, Any]:
    from sartor.run.record import Record

    return Record.result_schema()


def _plan() -> dict[str, Any]:
    from sartor.types import Plan

    return Plan.schema()


def _edits() -> dict[str, Any]:
    from sartor.surgery.edits_file import edits_schema

    return edits_schema()


def _recipe() -> dict[str, Any]:
    from sartor.recipes.registry import recipe_schema

    return recipe_schema()


def _inspection() -> dict[str, Any]:
    from sartor.cli.inspection_rows import Inspection

    return Inspection.model_json_schema(mode="serialization")


def _measurement() -> dict[str, Any]:
    from sartor.cli.measurement_rows import measurement_schema

    return measurement_schema()


def _frontier() -> dict[str, Any]:
    from sartor.studies.frontier_rows import FrontierTable

    return FrontierTable.model_json_schema(mode="serialization")


def _analysis() -> dict[str, Any]:
    from sartor.analysis import Analysis

    return Analysis.model_json_schema(mode="serialization")


def _advice() -> dict[str, Any]:
    from sartor.analysis.advice import Advice

    return Advice.model_json_schema(mode="serialization")


def _listing() -> dict[str, Any]:
    from sartor.cli.list_rows import Listing

    return Listing.model_json_schema(mode="serialization")


SCHEMAS = {
    "record": Schema("`fit --json` and result.json", _record),
    "plan": Schema("plan.json", _plan),
    "edits": Schema("edits.json", _edits),
    "recipe": Schema("a recipe", _recipe),
    "inspection": Schema("`inspect --json`", _inspection),
    "measurement": Schema("`measure --json`", _measurement),
    "frontier": Schema("`frontier --json` and frontier.json", _frontier),
    "analysis": Schema("`analyse --json`", _analysis),
    "advice": Schema("`advise --json`", _advice),
    "listing": Schema("`list --json`", _listing),
}


def schema(
    name: Annotated[str | None, typer.Argument(help="Which schema; left out, all are listed.")] = None,
    as_json: AsJson = False,
) -> CommandResult:
    """Print the JSON schema of a file or of what a command prints with --json."""
    from rich.json import JSON
    from rich.text import Text

    from sartor.report.text import grid

    if name is None:
        table = grid("name", "describes", left=2)
        for key, entry in SCHEMAS.items():
            table.add_row(Text(key, style="bold"), Text(entry.summary))
        rows = [{"name": key, "summary": entry.summary} for key, entry in SCHEMAS.items()]
        return CommandResult({"schemas": rows}, table)
    if name not in SCHEMAS:
        raise UnknownName("schema", name, SCHEMAS)
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **SCHEMAS[name].make()}
    return CommandResult(made, JSON.from_data(made))
