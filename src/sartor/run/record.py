"""What was asked, found, decided and measured, step by step: one JSON object a line."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sartor.errors import SartorError
from sartor.types import to_plain

Progress = Callable[[str, float | None, str], None]


class Recorder:
    """Keeps the steps, appends them to a file when there is one, and tells the listener."""

    def __init__(self, path: Path | None, progress: Progress | None, clock: Callable[[], float] = time.perf_counter):
        self.path, self.clock = path, clock
        self.tell: Progress = progress or (lambda event, done, detail: None)
        self.steps: list[dict[str, Any]] = []
        self.seconds: dict[str, float] = {}
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        """A sentence the reader of the report should see."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def add(self, step: str, **facts: Any) -> None:
        """One line of the record."""
        row = {"step": step, **to_plain(facts)}
        self.steps.append(row)
        if self.path is not None:
            try:
                with self.path.open("a") as f:
                    f.write(json.dumps(row) + "\n")
            except OSError as e:
                raise SartorError(f"{self.path}: cannot be written ({e.strerror or e})") from e

    @contextmanager
    def step(self, name: str, detail: str = "") -> Iterator[dict[str, Any]]:
        """Time a step; facts put into the dict it gives are recorded with it."""
        self.tell(name, 0.0, detail)
        facts: dict[str, Any] = {}
        start = self.clock()
        try:
            yield facts
        except BaseException as e:
            self.add(name, seconds=round(self.clock() - start, 4), failed=f"{type(e).__name__}: {e}", **facts)
            raise
        spent = self.clock() - start
        self.seconds[name] = round(self.seconds.get(name, 0.0) + spent, 4)
        self.add(name, seconds=round(spent, 4), **facts)
        self.tell(name, 1.0, str(facts.get("text", "")))
