"""The program `sartor`: its commands, its exit codes."""

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

from sartor.cli import tables as tables_
from sartor.cli.bench import oneshot
from sartor.cli.command_result import Reply, print_json, print_reply
from sartor.cli.demo import demo
from sartor.cli.discovery import discovery
from sartor.cli.export import export
from sartor.cli.failures import DONE, FAILURE, INTERRUPTED, Interrupted, exit_code, sentence
from sartor.cli.fit import fit
from sartor.cli.frontier import frontier
from sartor.cli.inspect import inspect
from sartor.cli.latency_study import latency
from sartor.cli.list import list_
from sartor.cli.measure import measure
from sartor.cli.report import report
from sartor.cli.resume import resume

app = typer.Typer(
    name="sartor",
    help="Neural networks, cut to measure: fit any PyTorch network to a device, with proof.",
    epilog="Exit codes: 0 done, 1 failure, 2 wrong usage, 3 budget not met, 130 interrupted.",
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
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every failure.")] = False,
) -> None:
    """Neural networks, cut to measure: fit any PyTorch network to a device, with proof."""


def _command(name: str, function: Callable[..., Reply], home: typer.Typer = app) -> None:
    @wraps(function)
    def called(*args: Any, **kwargs: Any) -> Reply:
        try:
            return function(*args, **kwargs)
        except KeyboardInterrupt as e:  # some parsers turn it into an exit without a word
            raise Interrupted(sentence(e)) from e

    home.command(name)(called)


for _name, _function in (
    ("demo", demo), ("inspect", inspect), ("measure", measure), ("fit", fit), ("frontier", frontier),
    ("resume", resume), ("report", report), ("export", export), ("list", list_),
):  # fmt: skip
    _command(_name, _function)
bench = typer.Typer(help="Methods side by side on the same networks; the tables of the docs.", no_args_is_help=True)
_command("oneshot", oneshot, bench)
_command("discovery", discovery, bench)
_command("latency", latency, bench)
app.add_typer(bench, name="bench")
tables = typer.Typer(help="Latency of operators by width, on this machine's targets.", no_args_is_help=True)
_command("list", tables_.list_, tables)
_command("show", tables_.show, tables)
_command("build", tables_.build, tables)
_command("merge", tables_.merge, tables)
_command("export", tables_.export, tables)
app.add_typer(tables, name="tables")


@bench.callback()
def _bench() -> None:
    """Methods side by side on the same networks; the tables of the docs."""


@tables.callback()
def _tables() -> None:
    """Latency of operators by width, on this machine's targets."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line.

    Args:
        arguments: without the program's name.

    Returns:
        The exit code. With --json, stdout gets exactly one JSON object, also when the command fails:
        {"error": {"kind", "message", "exit_code"}}. Everything else goes to stderr.
    """
    words = [a for a in arguments if a != "--debug"] or ["--help"]
    debug, as_json, stream = len(words) < len(arguments), "--json" in words, sys.stdout
    try:
        with redirect_stdout(sys.stderr) if as_json else nullcontext(), _calm(debug):
            program = typer.main.get_command(app)
            answer = program.main(args=words, prog_name="sartor", standalone_mode=False)
        if isinstance(answer, Reply):
            print_reply(answer, stream, as_json=as_json)
            return answer.code
        if answer == INTERRUPTED:
            raise KeyboardInterrupt
        return answer if isinstance(answer, int) else DONE
    except BrokenPipeError:  # `sartor list criteria | head -1`
        sys.stdout = None  # type: ignore[assignment]
        return DONE
    except (Exception, KeyboardInterrupt) as e:
        return _fail(e, stream, debug=debug, as_json=as_json)


def _fail(error: BaseException, stream: Any, *, debug: bool, as_json: bool) -> int:
    code, words = exit_code(error), sentence(error)
    if debug or words is None:
        traceback.print_exception(error, file=sys.stderr)
    if words is not None:
        print(f"sartor: {words}", file=sys.stderr)
        if code == 2 and callable(getattr(error, "format_message", None)):
            print("sartor: `sartor --help` and `sartor COMMAND --help` show what there is", file=sys.stderr)
    if as_json:
        message = words or f"{type(error).__name__}: {error}"
        print_json({"error": {"kind": type(error).__name__, "message": message, "exit_code": code}}, stream)
    return code


@contextmanager
def _calm(debug: bool) -> Iterator[None]:
    """Warnings of the libraries underneath are for developers: shown with --debug."""
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        yield


def main() -> None:
    """The entry point."""

    def stop(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)  # so that half-written files are removed
    code = run(sys.argv[1:])
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        sys.stdout = None  # type: ignore[assignment]
        code = FAILURE
    sys.exit(code)
