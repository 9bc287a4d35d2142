"""`sartor report`: the HTML report and the table of a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.options import AsJson, Out


def report(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run folder, or its result.json.")],
    out: Out = None,
    picture: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE.svg", help="Also write the run as one SVG picture.")
    ] = None,
    as_json: AsJson = False,
) -> CommandResult:
    """Write the HTML report of a run (to RUN/report.html, or to --out) and show its table."""
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.report import read_result, summary, write_picture, write_report
    from sartor.report.run_reader import run_folder

    result = read_result(run)
    path = write_report(result, out or run_folder(run) / "report.html").resolve()
    answer = {"run": str(Path(run)), "report": str(path), "status": result.status, "bytes": path.stat().st_size}
    if picture is not None:
        answer["picture"] = str(write_picture(result, picture).resolve())
    return CommandResult(answer, Stack(summary(result), Text(f"report: {path}")))
