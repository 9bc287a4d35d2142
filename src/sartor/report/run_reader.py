"""Reads run folders; every report starts from the result read here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sartor.errors import BadInput, CorruptFile


def read_result(run: str | Path) -> dict[str, Any]:
    """The result of a run.

    Args:
        run: a run folder, or the path of its result.json.

    Returns:
        The object of `fit --json`. If "environment" or "record" (a list of steps) is missing, it is read from the file
        beside it.

    Raises:
        BadInput: there is no result.
        CorruptFile: a file exists but cannot be read.
    """
    path = Path(run)
    folder = path.parent if path.suffix == ".json" else path
    file = path if path.suffix == ".json" else path / "result.json"
    if not file.is_file():
        state = "exists but holds no result.json; was the run finished?" if folder.is_dir() else "does not exist"
        raise BadInput(f"run folder {str(folder)!r}: expected the folder that `sartor fit --out` wrote; it {state}")
    result = _object(file)
    result.setdefault("run", str(folder))
    if not result.get("environment") and (folder / "environment.json").is_file():
        result["environment"] = _object(folder / "environment.json")
    if "record" not in result:
        result["record"] = read_record(folder / "record.jsonl") if (folder / "record.jsonl").is_file() else []
    return result


def read_record(path: Path) -> list[dict[str, Any]]:
    """The steps of a record, one JSON object per line; an incomplete last line (of a killed run) is left out."""
    steps: list[dict[str, Any]] = []
    lines = _text(path).splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            step = json.loads(line)
        except json.JSONDecodeError as e:
            if number == len(lines):
                break
            raise CorruptFile(f"{path}, line {number}: expected one JSON object; {e}") from e
        if isinstance(step, Mapping):
            steps.append(dict(step))
    return steps


def _object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_text(path))
    except json.JSONDecodeError as e:
        raise CorruptFile(f"{path}: expected JSON; {e}") from e
    if not isinstance(value, dict):
        raise CorruptFile(f"{path}: expected one JSON object; got {type(value).__name__}")
    return value


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as e:
        raise CorruptFile(f"{path}: expected UTF-8 text; {e}") from e
