"""Rows of a study on disk, one JSON object a line; a study that was interrupted continues behind the last one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sartor.errors import CorruptFile
from sartor.export.files import atomic_write
from sartor.types import to_plain


class RowStore:
    """Rows by what they are about. Of several rows about the same, the last counts.

    Args:
        path: of the JSON lines; None: rows are kept in memory only. A last line that an interrupted write left
            incomplete is dropped.
        key: fields of a row that say what it is about.

    Raises:
        CorruptFile: a line is not JSON, or lacks a field of the key.
    """

    def __init__(self, path: Path | None, key: Sequence[str]):
        self.path, self.key = path, tuple(key)
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        if path is not None and path.is_file():
            self._read(path)

    def get(self, about: Mapping[str, Any]) -> dict[str, Any] | None:
        """The row about this, or None.

        Args:
            about: field -> value, with at least the fields of the key.
        """
        return self._rows.get(self._identity(about))

    def add(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a row; returns it as it will be read back."""
        plain: dict[str, Any] = to_plain(row)
        self._rows[self._identity(row)] = plain
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(plain, ensure_ascii=False) + "\n")
        return plain

    def rows(self) -> list[dict[str, Any]]:
        """All rows in the order in which they were made."""
        return list(self._rows.values())

    def _identity(self, about: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(about[name] for name in self.key)

    def _read(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            for line in whole.splitlines():
                row = json.loads(line)
                self._rows[self._identity(row)] = row
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as e:
            expected = f"expected JSON lines of an earlier run of this study, with {', '.join(self.key)}"
            raise CorruptFile(f"--keep {path}: {expected}; {type(e).__name__}: {e}") from e
        if whole != text:
            atomic_write(path, whole)
