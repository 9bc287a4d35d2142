"""`sartor bench`: one command for each registered study, with its own options and those that all studies share."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_type_hints

import typer
from rich.console import Group
from rich.text import Text

from sartor.cli.command_result import CommandResult
from sartor.cli.failures import Interrupted, message
from sartor.cli.markdown_block import MarkdownBlock
from sartor.cli.options import AsJson, Quiet, Seed
from sartor.cli.progress import steps

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sartor.studies import Option, Part, Study


@dataclass(frozen=True, kw_only=True)
class SharedOptions:
    """Options of every study."""

    only: Annotated[str, typer.Option(help="Only rows or networks whose name contains this.")] = ""
    keep: Annotated[
        Path | None, typer.Option(help="JSON lines, one a row; rows that the file holds are not made again.")
    ] = None
    write: Annotated[
        Path | None, typer.Option(help="Put the tables between <!-- MARKER --> and <!-- /MARKER --> of this page.")
    ] = None
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
    """A function whose parameters are the fields of a study and of `SharedOptions`, as typer reads them."""
    own = [f.name for f in fields(study)]  # type: ignore[arg-type]

    def command(**values: Any) -> CommandResult:
        chosen = {name: values.pop(name) for name in own}
        try:
            return make_table(study(**chosen), SharedOptions(**values))
        except KeyboardInterrupt as e:  # some versions of the parser would exit without a message
            raise Interrupted(message(e)) from e

    marker = f"<!-- {study.marker} -->"
    parameters = [*_parameters(study), *_parameters(SharedOptions)]
    parameters = [p.replace(annotation=_with_marker(p.annotation, marker)) for p in parameters]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    command.__doc__ = study.__doc__
    return command


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


def _parameters(kind: type[Any]) -> list[inspect.Parameter]:
    hints = get_type_hints(kind, include_extras=True)
    return [
        inspect.Parameter(
            f.name, inspect.Parameter.KEYWORD_ONLY, annotation=_annotation(hints[f.name]),
            default=inspect.Parameter.empty if f.default is MISSING else f.default,
        )
        for f in fields(kind)
    ]  # fmt: skip


def _annotation(hint: Any) -> Any:
    """A study's `Annotated[type, Option(...)]` as `Annotated[type, typer.Option(...)]`; others unchanged."""
    from sartor.studies import Option

    kind, *notes = get_args(hint)
    options: list[Option] = [n for n in notes if isinstance(n, Option)]
    if not options:
        return hint
    (option,) = options
    settings: dict[str, Any] = {"help": option.help}
    if option.metavar is not None:
        settings["metavar"] = option.metavar
    if option.minimum is not None:
        settings["min"] = option.minimum
    if option.argument:
        return Annotated[kind, typer.Argument(**settings)]
    names = [] if option.name is None else [option.name]
    return Annotated[kind, typer.Option(*names, **settings)]


def _with_marker(hint: Any, marker: str) -> Any:
    """The same annotation, with the study's marker in the help of `--write`."""
    kind, note = get_args(hint)
    if "<!-- MARKER -->" not in (note.help or ""):
        return hint
    help_ = note.help.replace("<!-- MARKER -->", marker).replace("<!-- /MARKER -->", marker.replace("<!-- ", "<!-- /"))
    return Annotated[kind, typer.Option(help=help_)]


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
