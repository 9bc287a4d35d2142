"""Reads run folders; every report starts from the record read here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sartor.errors import BadInput, CorruptFile
from sartor.export.manifest import Contents
from sartor.json_file import parse_json, read_object, read_text
from sartor.run.record import Record


def read_result(run: str | Path) -> Record:
    """The record of a finished run.

    Args:
        run: a run folder, or the path of its result.json.

    Returns:
        What result.json says, of format 1 or 2, with the steps of record.jsonl. The environment of early runs is read
        from environment.json.

    Raises:
        BadInput: there is no result.
        CorruptFile: a file exists but cannot be read, or a field of it is missing or of the wrong kind; names both.
    """
    path = Path(run)
    folder = run_folder(path)
    file = path if path.suffix == ".json" else path / "result.json"
    if not file.is_file():
        state = "exists but holds no result.json; was the run finished?" if folder.is_dir() else "does not exist"
        raise BadInput(f"run folder {str(folder)!r}: expected the folder that `sartor fit --out` wrote; it {state}")
    contents = Contents.of(folder)
    result = read_object(_checked(contents, file))
    beside: dict[str, Any] = {"run": result.get("run") or str(folder)}
    if not result.get("environment") and (folder / "environment.json").is_file():
        beside["environment"] = read_object(folder / "environment.json")
    if "record" not in result and (folder / "record.jsonl").is_file():
        beside["record"] = read_record(_checked(contents, folder / "record.jsonl"))
    return Record.from_result({**result, **beside}, f"{file}: result")


def as_record(run: str | Path | Record | Mapping[str, Any]) -> Record:
    """The record of a run folder, of its result.json, or of the object of `fit --json`; a record as it is.

    Raises:
        BadInput, CorruptFile: as `read_result`.
    """
    if isinstance(run, Record):
        return run
    return Record.from_result(run) if isinstance(run, Mapping) else read_result(run)


def run_folder(run: str | Path) -> Path:
    """The folder of a run that is given by its folder or its result.json."""
    path = Path(run)
    return path.parent if path.suffix == ".json" else path


def read_record(path: Path) -> list[dict[str, Any]]:
    """The steps of a record, one JSON object per line; an incomplete last line (of a killed run) is left out."""
    steps: list[dict[str, Any]] = []
    lines = read_text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            step = parse_json(line, f"{path}, line {number}")
        except CorruptFile:
            if number == len(lines):
                break
            raise
        if isinstance(step, Mapping):
            steps.append(dict(step))
    return steps


def _checked(contents: Contents, file: Path) -> Path:
    """The file as the manifest of its folder lists it; a copy of another name is taken as it is."""
    return contents.checked(file.name) if contents.lists(file.name) else file
