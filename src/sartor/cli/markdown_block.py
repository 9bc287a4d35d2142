"""A block of a Markdown page that a command generates: the text between two HTML comments."""

from __future__ import annotations

from pathlib import Path

from sartor.errors import BadInput


class MarkdownBlock:
    """The text of a file between `<!-- name -->` and `<!-- /name -->`. The rest of the file is never changed.

    Args:
        path: the file.
        name: of the block, as it stands in both comments.

    Raises:
        BadInput: the file does not exist, or either comment does not occur exactly once. The constructor checks this,
            so that a long computation does not end with a page that cannot be written.
    """

    def __init__(self, path: Path, name: str):
        self.path, self.open, self.close = path, f"<!-- {name} -->", f"<!-- /{name} -->"
        self._surroundings()

    def fill(self, body: str) -> None:
        """Replace the text between the comments by `body`."""
        from sartor.export.files import atomic_write

        before, behind = self._surroundings()
        atomic_write(self.path, f"{before}{self.open}\n{body}\n{self.close}{behind}")

    def _surroundings(self) -> tuple[str, str]:
        """The text before the opening comment and the text behind the closing one."""
        if not self.path.is_file():
            raise BadInput(f"--write {self.path}: no such file")
        text = self.path.read_text(encoding="utf-8")
        once = text.count(self.open) == 1 == text.count(self.close)
        if not once or text.index(self.open) > text.index(self.close):
            raise BadInput(f"--write {self.path}: expected {self.open} and then {self.close}, once each")
        before, rest = text.split(self.open)
        return before, rest.split(self.close)[1]
