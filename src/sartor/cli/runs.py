"""`sartor runs`: run folders listed, shown, checked against their manifests, and cleaned of leftovers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from sartor.cli.command_result import CommandResult
from sartor.cli.failures import DONE, FAILURE
from sartor.cli.options import AsJson
from sartor.cli.output_folder import LEFTOVER
from sartor.cli.request import REQUEST_FILE, read_request
from sartor.errors import BadInput, SartorError

Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")]
_MARKS = (
    REQUEST_FILE,
    "result.json",
    "record.jsonl",
    "manifest.json",
    "plan.json",
)  # a folder with one of them is a run's
_DEPTH = 3  # folders below the one that is listed


def list_(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where to look.")] = Path("."),
    as_json: AsJson = False,
) -> CommandResult:
    """List the run folders below a folder: state, model and budget."""
    from rich.text import Text

    from sartor.report.text import grid

    rows = [{"run": str(run), **_state(run)} for run in _runs(folder)]
    table = grid("run", "state", "model", "budget", left=4)
    for row in rows:
        table.add_row(*(Text(str(row[key] or "")) for key in ("run", "state", "model", "budget")))
    return CommandResult({"folder": str(folder), "runs": rows}, table)


def show(run: Run, as_json: AsJson = False) -> CommandResult:
    """Show one run folder: its state, its files, and what it would import if it were resumed."""
    from rich.console import Group as Stack
    from rich.text import Text

    from sartor.cli.trust import run_uses
    from sartor.export.manifest import Contents
    from sartor.report.text import grid
    from sartor.units import show_bytes

    _must_be_run(run)
    contents, request = Contents.of(run), read_request(run)
    manifest = contents.manifest
    files = {} if manifest is None else {name: row.bytes for name, row in manifest.files.items()}
    answer = {
        "run": str(run), **_state(run), "sartor_of_files": manifest and manifest.sartor,
        "graph": manifest and manifest.graph, "files": files, "imports": run_uses(request) if request else {},
    }  # fmt: skip
    table = grid("file", "size")
    for name, size in files.items():
        table.add_row(Text(name), show_bytes(size))
    lines = [f"{run}: {answer['state']}; model {answer['model']}; budget {answer['budget']}"]
    lines += [f"would import or read, if resumed: {what} {text!r}" for what, text in answer["imports"].items()]
    lines += [] if manifest is not None else ["no manifest: `sartor runs verify --adopt` writes one"]
    return CommandResult(answer, Stack(*map(Text, lines), table))


def verify(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    adopt: Annotated[
        bool, typer.Option("--adopt", help="Write the manifest of a folder that has none, from its files as they are.")
    ] = False,
    as_json: AsJson = False,
) -> CommandResult:
    """Compare every file of run folders with the size and SHA-256 in their manifests. Exit code 1: one differs."""
    from rich.text import Text

    from sartor.report.text import grid
    from sartor.run.folder import adopt as adopt_folder
    from sartor.run.folder import problems_of

    rows: list[dict[str, Any]] = []
    for run in runs:
        _must_be_run(run)
        if adopt:
            adopt_folder(run)
        rows.append({"run": str(run), "problems": problems_of(run)})
    table = grid("run", "file", "problem", left=3)
    for row in rows:
        for name, problem in (row["problems"] or {"": "none: every file is as it was written"}).items():
            table.add_row(Text(row["run"]), Text(name), Text(problem))
    damaged = any(row["problems"] for row in rows)
    return CommandResult({"runs": rows}, table, FAILURE if damaged else DONE)


def clean(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A run folder, or one with run folders below.")],
    as_json: AsJson = False,
) -> CommandResult:
    """Remove what killed processes left behind: half-written files and locks. Finished files are never removed."""
    from rich.text import Text

    from sartor.export.manifest import STAGE, Contents, replacing_files
    from sartor.folder_lock import LOCK, held, is_held
    from sartor.run.kept_stages import STAGES

    if not folder.is_dir():
        raise BadInput(f"no folder {str(folder)!r}")
    removed: list[str] = []
    skipped: list[str] = []
    for run in _runs(folder):
        if is_held(run):
            skipped.append(str(run))
            continue
        left = [p for p in run.iterdir() if p.name == LOCK or LEFTOVER.fullmatch(p.name)]
        left += [p for p in (run / STAGES).glob(".*") if LEFTOVER.fullmatch(p.name)]
        with held(run):
            if (run / STAGE).is_dir() or (run / STAGE).is_symlink():
                removed.append(str(run / STAGE))
                if not (run / STAGE).is_symlink() and Contents.of(run).staged:
                    with replacing_files(run, keep=True):  # moves the files that count into place
                        pass
                elif (run / STAGE).is_symlink():
                    (run / STAGE).unlink()
                else:
                    shutil.rmtree(run / STAGE)
            for path in left:
                removed.append(str(path))
                if path.name != LOCK:
                    path.unlink(missing_ok=True)
    lines = [f"removed {path}" for path in removed] + [f"left alone, a process writes there: {p}" for p in skipped]
    return CommandResult({"removed": removed, "in_use": skipped}, Text("\n".join(lines) or "nothing was left behind"))


def _runs(folder: Path) -> Iterator[Path]:
    """Run folders at or below a folder, by name."""
    if not folder.is_dir():
        raise BadInput(f"no folder {str(folder)!r}")
    waiting = [(folder, 0)]
    while waiting:
        place, depth = waiting.pop(0)
        if _is_run(place):
            yield place
        elif depth < _DEPTH:
            try:
                inside = sorted(p for p in place.iterdir() if p.is_dir() and not p.is_symlink() and p.name[0] != ".")
            except OSError:
                continue
            waiting += [(p, depth + 1) for p in inside]


def _is_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _MARKS)


def _must_be_run(folder: Path) -> None:
    if not _is_run(folder):
        raise BadInput(f"{folder}: expected a run folder, with one of {', '.join(_MARKS)}")


def _state(run: Path) -> dict[str, Any]:
    """State, model and budget of a run, from its files; damaged ones make a state of their own."""
    from sartor.folder_lock import holder, is_held
    from sartor.report import read_result
    from sartor.run.kept_stages import is_unfinished

    facts: dict[str, Any] = {"state": "unfinished", "model": None, "budget": None, "held_by": None}
    try:
        request = read_request(run)
        if request is not None:
            facts |= {"model": request.model, "budget": request.budget}
        if is_unfinished(run):
            facts |= {"state": "unfinished, can be continued"}
        elif (run / "result.json").is_file():
            record = read_result(run)
            facts |= {"state": f"finished, {record.status}", "model": record.model, "budget": record.asked.budget}
    except SartorError as e:
        facts["state"] = f"damaged: {e}"
    if is_held(run):
        facts |= {"state": "being written", "held_by": holder(run)}
    return facts
