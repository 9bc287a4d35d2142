"""Progress on stderr: a live display on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

EVERY_S = 10.0  # plain lines of one step are at least this far apart


class Listener(Protocol):
    """What `sartor.fit` reports to: a step, how much of it is done in [0, 1] or None, and a detail."""

    def __call__(self, event: str, done: float | None = None, detail: str = "") -> None: ...


class Steps:
    """Use as `with steps() as progress: work(progress=progress)`; a new event ends the one before."""

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def __call__(self, event: str, done: float | None = None, detail: str = "") -> None:
        raise NotImplementedError


def steps(stream: TextIO | None = None, *, quiet: bool = False) -> Steps:
    """The display that suits the stream (stderr unless told)."""
    stream = stream or sys.stderr
    if quiet:
        return _Silent()
    return _Live(stream) if stream.isatty() else _Plain(stream)


class _Silent(Steps):
    def __call__(self, event: str, done: float | None = None, detail: str = "") -> None:
        pass


class _Plain(Steps):
    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        self.stream, self.clock = stream, clock
        self.start, self.event, self.said = clock(), "", 0.0

    def __call__(self, event: str, done: float | None = None, detail: str = "") -> None:
        now = self.clock()
        ends = done == 1.0 and bool(detail)
        if event == self.event and now - self.said < EVERY_S and not ends:
            return
        self.event, self.said = event, now
        share = f" {100 * done:.0f} %" if done else ""
        words = f": {detail}" if detail else ""
        print(f"[{now - self.start:6.1f} s] {event}{share}{words}", file=self.stream, flush=True)


class _Live(Steps):
    def __init__(self, stream: TextIO):
        self.display = Progress(
            _Mark(""), TextColumn("{task.description}"), BarColumn(bar_width=24), _Clock(),
            TextColumn("[dim]{task.fields[detail]}"), console=Console(file=stream),
        )  # fmt: skip
        self.event = ""
        self.task: TaskID | None = None

    def __enter__(self) -> Steps:
        self.display.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._finish()
        self.display.stop()

    def __call__(self, event: str, done: float | None = None, detail: str = "") -> None:
        if event != self.event or self.task is None:
            self._finish()
            self.event = event
            self.task = self.display.add_task(escape(event), total=None, detail="")
        total = None if done is None else 1.0
        self.display.update(self.task, total=total, completed=done or 0.0, detail=escape(detail))

    def _finish(self) -> None:
        if self.task is not None:
            self.display.update(self.task, total=1.0, completed=1.0)
            self.display.stop_task(self.task)


class _Mark(TextColumn):
    def render(self, task: Task) -> Text:
        return Text("✓" if task.finished else "·", style="green" if task.finished else "dim")


class _Clock(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.finished_time or task.elapsed or 0.0:5.1f} s", style="dim")
