"""`sartor bench`: one command for each registered study, with its own options and those that all studies share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Group
from rich.text import Text

from sartor.cli.command_result import CommandResult
from sartor.cli.markdown_block import MarkdownBlock
from sartor.cli.option_fields import command_of
from sartor.cli.options import AsJson, Quiet, Seed
from sartor.cli.progress import steps

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sartor.studies import Part, Study


def write_option(marker: str) -> Any:
    """The option `--write` of a study."""
    return typer.Option(help=f"Put the tables between <!-- {marker} --> and <!-- /{marker} --> of this page.")


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """Options of every study."""

    only: Annotated[str, typer.Option(help="Only rows or networks whose name contains this.")] = ""
    keep: Annotated[
        Path | None, typer.Option(help="JSON lines, one a row; rows that the file holds are not made again.")
    ] = None
    write: Annotated[Path | None, write_option] = None
    seed: Seed = 0
    quiet: Quiet = False
    as_json: AsJson = False


class StudyCommands(typer.core.TyperGroup):
    """The commands of the registered studies, built when they are first needed: `sartor --help` needs no torch."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Names, alphabetically."""
        from sartor.studies import STUDIES

        return list(STUDIES)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of a study; None if there is none of this name."""
        from sartor.studies import STUDIES

        if cmd_name not in STUDIES:
            return None
        home = typer.Typer()
        home.command(cmd_name)(study_command(STUDIES[cmd_name].value))
        home.callback()(lambda: None)  # without it, the only command of a program has no name
        return typer.main.get_group(home).commands[cmd_name]


def study_command(study: type[Study]) -> Callable[..., CommandResult]:
    """A command with the options of a study and those of `SharedOptions`."""

    def table(own: Study, shared: SharedOptions) -> CommandResult:
        return make_table(own, shared)

    table.__doc__ = study.__doc__
    return command_of(table, study, SharedOptions, annotation=partial(_annotation, marker=study.marker))


def make_table(study: Study, shared: SharedOptions) -> CommandResult:
    """Run a study: make the rows that are missing, fill the page, and return rows and tables.

    Raises:
        BadInput: the page lacks its markers (checked before anything is computed); else as the study.
    """
    from sartor.studies import RowStore, StudyRun

    page = None if shared.write is None else MarkdownBlock(shared.write, study.marker)
    store = RowStore(shared.keep, study.key)
    with steps(quiet=shared.quiet) as listener:
        listener.begin(study.name)
        run = StudyRun(store, shared.only, shared.seed, listener)
        answer = study.answer(list(study.rows(run)), run)
    if page is not None:
        page.fill(study.page(answer))
    failures = study.failures(answer)
    view = [_rendered(part) for part in study.parts(answer) if part]
    view += [Text(sentence, style="bold red") for sentence in failures]
    return CommandResult(answer, Group(*view), 1 if failures else 0)


def _annotation(hint: Any, marker: str) -> Any:
    """`Annotated[type, Option(...)]` of a study as typer reads it; in the help of `--write`, the study's marker."""
    from sartor.studies import Option

    kind, note = get_args(hint)
    if not isinstance(note, Option):
        return Annotated[kind, write_option(marker)] if note is write_option else hint
    settings: dict[str, Any] = {"help": note.help}
    if note.metavar is not None:
        settings["metavar"] = note.metavar
    if note.minimum is not None:
        settings["min"] = note.minimum
    if note.argument:
        return Annotated[kind, typer.Argument(**settings)]
    return Annotated[kind, typer.Option(*([] if note.name is None else [note.name]), **settings)]


def _rendered(part: Part) -> RenderableType:
    """A part of a page for the terminal."""
    from sartor.report.text import grid
    from sartor.studies import Grid

    if not isinstance(part, Grid):
        return Text(part.lstrip("#").strip(), style="bold" if part.startswith("#") else "")
    table = grid(*part.heads, left=part.left or 1)
    for line in part.lines:
        table.add_row(*(Text(c.strip("*"), style="bold" if c.startswith("**") else "") for c in line))
    return table
