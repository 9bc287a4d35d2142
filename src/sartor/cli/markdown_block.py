"""A page whose table is made by a command: what stands between two marks is replaced, and nothing else."""

from __future__ import annotations

from pathlib import Path

from sartor.errors import BadInput


class Page:
    """A text file with `<!-- name -->` and, behind it, `<!-- /name -->`.

    Raises:
        BadInput: no such file, or the marks are not there once each; said before any work is done.
    """

    def __init__(self, path: Path, name: str):
        self.path, self.open, self.close = path, f"<!-- {name} -->", f"<!-- /{name} -->"
        self._parts()

    def fill(self, body: str) -> None:
        """Put the body between the marks."""
        from sartor.export.files import atomic_write

        before, behind = self._parts()
        atomic_write(self.path, f"{before}{self.open}\n{body}\n{self.close}{behind}")

    def _parts(self) -> tuple[str, str]:
        if not self.path.is_file():
            raise BadInput(f"--write {self.path}: no such file")
        text = self.path.read_text(encoding="utf-8")
        once = text.count(self.open) == 1 == text.count(self.close)
        if not once or text.index(self.open) > text.index(self.close):
            raise BadInput(f"--write {self.path}: expected {self.open} and then {self.close}, once each")
        before, rest = text.split(self.open)
        return before, rest.split(self.close)[1]
