"""The program `sartor`: its commands and exit codes."""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import wraps
from typing import Annotated, Any

import typer

from sartor.cli import runs as runs_
from sartor.cli import tables as tables_
from sartor.cli.advise import advise
from sartor.cli.analyse import AnalyseOptions, analyse
from sartor.cli.bench import StudyCommands
from sartor.cli.command_result import CommandResult, print_json, print_result
from sartor.cli.demo import demo
from sartor.cli.export import export
from sartor.cli.failures import (
    DONE,
    FAILURE,
    INTERRUPTED,
    WRONG_USAGE,
    Interrupted,
    Terminated,
    exit_code,
    message,
)
from sartor.cli.fit import fit
from sartor.cli.frontier import FrontierOptions, frontier
from sartor.cli.inspect import inspect
from sartor.cli.list import list_
from sartor.cli.measure import measure
from sartor.cli.option_fields import command_of
from sartor.cli.report import report
from sartor.cli.resume import resume
from sartor.cli.schema import schema

app = typer.Typer(
    name="sartor",
    help="Fit any PyTorch network to a device by structured pruning, with proof.",
    epilog="Exit codes: 0 done, 1 failure, 2 wrong usage, 3 budget not met, 130 interrupted, 143 terminated.",
    add_completion=False,
    rich_markup_mode="rich",
)


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"sartor {version('sartor')}")
        except PackageNotFoundError:
            print("sartor, run from its sources")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every failure.")] = False,
) -> None:
    """Fit any PyTorch network to a device by structured pruning, with proof."""


def _command(name: str, function: Callable[..., CommandResult], home: typer.Typer = app) -> None:
    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> CommandResult:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt as e:  # some versions of the parser would exit without a message
            raise Interrupted(message(e)) from e

    home.command(name)(called)


for _name, _function in (
    ("demo", demo), ("inspect", inspect), ("measure", measure), ("fit", fit),
    ("frontier", command_of(frontier, FrontierOptions)), ("analyse", command_of(analyse, AnalyseOptions)),
    ("advise", advise), ("resume", resume), ("report", report), ("export", export), ("list", list_), ("schema", schema),
):  # fmt: skip
    _command(_name, _function)
bench = typer.Typer(
    cls=StudyCommands, help="Compare methods on the same networks; makes the tables of the docs.", no_args_is_help=True
)
app.add_typer(bench, name="bench")
tables = typer.Typer(help="Latency tables: operators timed by width on this machine's targets.", no_args_is_help=True)
_command("list", tables_.list_, tables)
_command("show", tables_.show, tables)
_command("build", tables_.build, tables)
_command("merge", tables_.merge, tables)
_command("export", tables_.export, tables)
app.add_typer(tables, name="tables")
runs = typer.Typer(help="Run folders: list, show, verify against their manifests, clean.", no_args_is_help=True)
_command("list", runs_.list_, runs)
_command("show", runs_.show, runs)
_command("verify", runs_.verify, runs)
_command("clean", runs_.clean, runs)
app.add_typer(runs, name="runs")


@bench.callback()
def _bench() -> None:
    """Compare methods on the same networks; makes the tables of the docs."""


@tables.callback()
def _tables() -> None:
    """Latency tables: operators timed by width on this machine's targets."""


@runs.callback()
def _runs() -> None:
    """Run folders: list, show, verify against their manifests, clean."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Args:
        arguments: without the program's name.

    Returns:
        The exit code. With --json, exactly one JSON object goes to stdout, also if the command fails:
        {"format", "sartor", "error": {"kind", "message", "exit_code"}}. Everything else goes to stderr.
    """
    args = [a for a in arguments if a != "--debug"] or ["--help"]
    debug, as_json, stream = len(args) < len(arguments), "--json" in args, sys.stdout
    try:
        with redirect_stdout(sys.stderr) if as_json else nullcontext(), _library_warnings(shown=debug):
            program = typer.main.get_command(app)
            result = program.main(args=args, prog_name="sartor", standalone_mode=False)
        if isinstance(result, CommandResult):
            print_result(result, stream, as_json=as_json)
            return result.code
        if result == INTERRUPTED:
            raise KeyboardInterrupt
        return result if isinstance(result, int) else DONE
    except BrokenPipeError:  # the reader closed the pipe, as in `sartor list criteria | head -1`
        sys.stdout = None  # type: ignore[assignment]
        return DONE
    except (Exception, KeyboardInterrupt, Terminated) as e:
        return _fail(e, stream, debug=debug, as_json=as_json)


def _fail(error: BaseException, stream: Any, *, debug: bool, as_json: bool) -> int:
    """Print the error and return its exit code."""
    code, text = exit_code(error), message(error)
    if debug or text is None:
        traceback.print_exception(error, file=sys.stderr)
    if text is not None:
        print(f"sartor: {text}", file=sys.stderr)
        if code == WRONG_USAGE and callable(getattr(error, "format_message", None)):
            print("sartor: `sartor --help` and `sartor COMMAND --help` list commands and options", file=sys.stderr)
    if as_json:
        text = text or f"{type(error).__name__}: {error}"
        print_json({"error": {"kind": type(error).__name__, "message": text, "exit_code": code}}, stream)
    return code


@contextmanager
def _library_warnings(*, shown: bool) -> Iterator[None]:
    """Python warnings inside the block are shown, or ignored."""
    with warnings.catch_warnings():
        if not shown:
            warnings.simplefilter("ignore")
        yield


def main() -> None:
    """The entry point."""

    def stop(*_: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, stop)  # an exception, so that cleanup code removes half-written files
    code = run(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = None  # type: ignore[assignment]
        code = FAILURE
    sys.exit(code)
