"""A block that may fail because something else is tried next; a lost machine is never such a failure."""

from __future__ import annotations

from types import TracebackType

from sartor.errors import TargetLost


class Attempt:
    """Context manager that swallows exceptions of the given classes and keeps the one that was raised.

    `TargetLost` always passes: whatever is tried next needs the same machine.

    >>> with Attempt(ValueError) as attempt:
    ...     number = int("seven")
    >>> attempt.error
    ValueError("invalid literal for int() with base 10: 'seven'")
    """

    def __init__(self, *errors: type[Exception]):
        self._errors = errors
        self.error: BaseException | None = None

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, self._errors) or isinstance(error, TargetLost):
            return False
        self.error = error
        return True
