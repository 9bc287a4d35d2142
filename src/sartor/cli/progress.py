"""Progress on stderr: a live display on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from sartor.types import Listener

EVERY_S = 10.0  # plain lines of one step are at least this many seconds apart


class Steps(Listener):
    """A listener that displays the steps of a command: `with steps() as listener: work(listener)`.

    It can also be called as `listener(step, done, text)`, so that it serves as the `progress` of `sartor.fit`. Progress
    of another step ends the step before. Notes are not displayed here: results and reports list them.
    """

    def __init__(self) -> None:
        super().__init__(progress=self)

    def begin(self, step: str, text: str = "") -> None:
        """A step begins; the share that is done is not known yet."""
        self.step = step
        self.tell(text)

    def __enter__(self) -> Steps:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        pass

    def __call__(self, step: str, done: float | None = None, text: str = "") -> None:
        """Display progress of a step.

        Args:
            step: its name.
            done: the share that is done, in [0, 1]; None: not known.
            text: details.
        """
        raise NotImplementedError


def steps(stream: TextIO | None = None, *, quiet: bool = False) -> Steps:
    """The display that suits the stream.

    Args:
        stream: written to; None: stderr.
        quiet: write nothing.
    """
    stream = stream or sys.stderr
    if quiet:
        return _Silent()
    return _Live(stream) if stream.isatty() else _Plain(stream)


class _Silent(Steps):
    def __call__(self, step: str, done: float | None = None, text: str = "") -> None:
        pass


class _Plain(Steps):
    """One line when a step begins, when it ends with a text, and at most every EVERY_S seconds in between."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic):
        super().__init__()
        self.stream, self.clock = stream, clock
        self.start, self.printed_step, self.printed_at = clock(), "", 0.0

    def __call__(self, step: str, done: float | None = None, text: str = "") -> None:
        now = self.clock()
        ends = done == 1.0 and bool(text)
        if step == self.printed_step and now - self.printed_at < EVERY_S and not ends:
            return
        self.printed_step, self.printed_at = step, now
        share = f" {100 * done:.0f} %" if done else ""
        details = f": {text}" if text else ""
        print(f"[{now - self.start:6.1f} s] {step}{share}{details}", file=self.stream, flush=True)


class _Live(Steps):
    """One line a step with a bar and a clock; text of steps is shown as it is, without markup."""

    def __init__(self, stream: TextIO):
        super().__init__()
        self.display = Progress(
            _Mark(""), TextColumn("{task.description}"), BarColumn(bar_width=24), _Clock(),
            TextColumn("[dim]{task.fields[detail]}"), console=Console(file=stream),
        )  # fmt: skip
        self.shown_step = ""
        self.task: TaskID | None = None

    def __enter__(self) -> Steps:
        self.display.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is None:
            self._finish()
        self.display.stop()

    def __call__(self, step: str, done: float | None = None, text: str = "") -> None:
        if step != self.shown_step or self.task is None:
            self._finish()
            self.shown_step = step
            self.task = self.display.add_task(escape(step), total=None, detail="")
        total = None if done is None else 1.0
        self.display.update(self.task, total=total, completed=done or 0.0, detail=escape(text))

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
