"""Signals that end a process wait until a training step is done, so that what stays behind is whole."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = ("SIGINT", "SIGTERM")


class Interruption:
    """Ctrl-C and SIGTERM while something must not be interrupted; see `deferred_signals`."""

    def __init__(self) -> None:
        self._handlers: dict[int, Any] = {}
        self._came: int | None = None
        self._holding = False

    @contextmanager
    def held(self) -> Iterator[None]:
        """A signal that comes inside the block acts at its end; a second one acts at once."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        number, self._came = self._came, None
        if number is not None:
            self._handlers[number](number, None)  # usually raises KeyboardInterrupt or SystemExit

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals."""
        if self._holding and self._came is None:
            self._came = number
        else:
            self._came = None
            self._handlers[number](number, frame)

    def install(self) -> None:
        """Receive the signals that have a handler in Python; others act as they did."""
        for name in _SIGNALS:
            number = getattr(signal, name)
            handler = signal.getsignal(number)
            if callable(handler):
                self._handlers[number] = handler
                signal.signal(number, self.receive)

    def restore(self) -> None:
        """Put the former handlers back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


@contextmanager
def deferred_signals() -> Iterator[Interruption]:
    """Inside the block, Ctrl-C and SIGTERM can be held off for a while: see `Interruption.held`.

    Only in the main thread; in others, signals never arrive.
    """
    interruption = Interruption()
    main = threading.current_thread() is threading.main_thread()
    try:
        if main:
            interruption.install()
        yield interruption
    finally:
        if main:
            interruption.restore()


__all__ = ["Interruption", "deferred_signals"]
