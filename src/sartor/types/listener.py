"""The receiver of progress and notes while something runs."""

from __future__ import annotations

import warnings
from collections.abc import Callable

Progress = Callable[[str, float | None, str], None]


class Listener:
    """Receives progress of the current step, and notes that a reader of the result should see.

    Args:
        progress: called as progress(step, share done in [0, 1] or None, text); None: progress is dropped.
        note: called with one sentence; None: notes are dropped.

    >>> listener = Listener(lambda step, done, text: print(step, done, text))
    >>> listener.begin("score", "start")
    score 0.0 start
    >>> listener.tell("batch 3 of 12", 0.25)
    score 0.25 batch 3 of 12
    """

    def __init__(self, progress: Progress | None = None, note: Callable[[str], None] | None = None):
        self.step = ""  # the name of the step that runs now
        self._progress, self._note = progress, note

    def begin(self, step: str, text: str = "") -> None:
        """A step begins; progress that follows belongs to it."""
        self.step = step
        self.tell(text, 0.0)

    def tell(self, text: str, done: float | None = None) -> None:
        """Progress within the current step: one line of text, and the share that is done where it is known."""
        if self._progress is not None:
            self._progress(self.step, done, text)

    def prefixed(self, prefix: str) -> Listener:
        """A listener whose lines of progress begin with `prefix`; notes pass unchanged."""
        return Listener(lambda _, done, text: self.tell(prefix + text, done), self.note)

    def note(self, sentence: str) -> None:
        """A sentence that the reader of the result should see."""
        if self._note is not None:
            self._note(sentence)


SILENT = Listener()  # drops everything
WARNINGS = Listener(note=warnings.warn)  # drops progress; notes become Python warnings
