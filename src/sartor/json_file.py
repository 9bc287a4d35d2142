"""JSON files of unknown origin: limited in size and number of values before they are taken apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from sartor.errors import BadInput, CorruptFile

MOST_BYTES = 32 * 2**20  # of a file; edits of large networks may have more, see `sartor.run.folder.load`
_MOST_CONTAINERS = 1_000_000  # lists and objects; each takes some 64 bytes of memory, whatever it holds


def read_text(path: Path, most: int = MOST_BYTES) -> str:
    """The text of a file.

    Args:
        path: a regular file.
        most: bytes it may have.

    Raises:
        BadInput: there is no such file.
        CorruptFile: it is no regular file, too large, or not UTF-8.
    """
    if not path.exists():
        raise BadInput(f"{path}: no such file")
    if not path.is_file():
        raise CorruptFile(f"{path}: expected a regular file")
    size = path.stat().st_size
    if size > most:
        raise CorruptFile(f"{path}: expected at most {most} bytes; it has {size}")
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError as e:
        raise CorruptFile(f"{path}: expected UTF-8 text; {e}") from e


def parse_json(text: str, what: str) -> Any:
    """The value of a JSON text.

    Raises:
        CorruptFile: not JSON, nested too deeply, a number of too many digits, or more than a million lists and objects.
    """
    if text.count("[") + text.count("{") > _MOST_CONTAINERS:
        raise CorruptFile(f"{what}: expected at most {_MOST_CONTAINERS} lists and objects")
    try:
        return json.loads(text)
    except RecursionError as e:
        raise CorruptFile(f"{what}: expected JSON; it is nested too deeply") from e
    except ValueError as e:  # of JSONDecodeError, or a number with thousands of digits
        raise CorruptFile(f"{what}: expected JSON; {str(e).splitlines()[0]}") from e


def read_object(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """The JSON object that a file holds; errors as of `read_text` and `parse_json`.

    Raises:
        CorruptFile: it holds something else.
    """
    value = parse_json(read_text(path, most), str(path))
    if not isinstance(value, dict):
        raise CorruptFile(f"{path}: expected one JSON object; got {type(value).__name__}")
    return value


__all__ = ["MOST_BYTES", "parse_json", "read_object", "read_text"]
