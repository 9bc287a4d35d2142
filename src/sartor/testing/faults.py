"""Faults to test with: bytes of saved files that change, and folders that say what no run would have written."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sartor.errors import BadInput


@dataclass(frozen=True)
class Flip:
    """One byte of a file, and what it becomes."""

    file: Path
    at: int  # place in the file, in bytes
    before: int
    after: int

    def __str__(self) -> str:
        return f"{self.file.name}, byte {self.at}: {self.before:#04x} becomes {self.after:#04x}"


def random_flips(folder: str | Path, count: int, seed: int = 0) -> Iterator[Flip]:
    """Random changes of single bytes: first a file of the folder is drawn, then one of its bytes, then another value.

    Args:
        folder: every file in it that is not empty may be drawn, those in its subfolders too.
        count: number of changes.
        seed: of the draws.

    Raises:
        BadInput: the folder holds no file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = (Path(folder) / "a.txt").write_text("abc")
    ...     flip = next(random_flips(folder, 1))
    ...     with flipped(flip):
    ...         (Path(folder) / "a.txt").read_bytes() == b"abc"
    False
    """
    draw = random.Random(seed)
    files = sorted(p for p in Path(folder).rglob("*") if p.is_file() and p.stat().st_size)
    if not files:
        raise BadInput(f"{folder}: expected a folder with files")
    for _ in range(count):
        file = draw.choice(files)
        at = draw.randrange(file.stat().st_size)
        with file.open("rb") as f:
            f.seek(at)
            before = f.read(1)[0]
        yield Flip(file, at, before, (before + draw.randrange(1, 256)) % 256)


@contextmanager
def flipped(flip: Flip) -> Iterator[None]:
    """The byte is changed inside the block, and is what it was afterwards."""
    _write(flip, flip.after)
    try:
        yield
    finally:
        _write(flip, flip.before)


def _write(flip: Flip, value: int) -> None:
    with flip.file.open("r+b") as f:
        f.seek(flip.at)
        f.write(bytes([value]))


def rewritten(flip: Flip) -> None:
    """Change the byte for good."""
    _write(flip, flip.after)


MEASURED = {  # fields that may differ between equal runs
    "seconds", "environment", "date", "latency", "sha256", "run", "files", "ratio", "interval",
}  # fmt: skip


def comparable_record(folder: str | Path) -> dict[str, Any]:
    """What a finished run folder says, without times and without notes about interruptions: equal for equal runs."""
    folder = Path(folder)
    result = json.loads((folder / "result.json").read_text())
    steps = [json.loads(line) for line in (folder / "record.jsonl").read_text().splitlines()]
    notes = [n for n in result.pop("notes") if not _about_this_run(n)]
    return {"result": _timeless(result), "steps": _timeless(steps), "notes": notes}


def _about_this_run(note: str) -> bool:
    words = (
        "CONTINUED",
        "taken over from",
        "interrupted run",
        "is damaged",
        "was interrupted",
        "checkpoint",
        " kept",
        "was measured",
        "were measured",
        "SLOWER",
    )
    return any(word in note for word in words)


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in MEASURED}
    return [_timeless(v) for v in value] if isinstance(value, list) else value


__all__ = ["Flip", "comparable_record", "flipped", "random_flips", "rewritten"]
