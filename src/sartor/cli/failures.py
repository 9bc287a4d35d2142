"""Every way a command can fail, as an exit code and a message."""

from __future__ import annotations

import errno

from sartor.errors import BadInput, BudgetNotMet, SartorError, UnknownName

DONE, FAILURE, WRONG_USAGE, BUDGET_NOT_MET, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143


class Interrupted(SartorError):
    """The user pressed Ctrl-C; the message says what was finished and how to continue."""


class Terminated(SystemExit):
    """SIGTERM came. It passes every `except Exception`, so that only clean-up code runs.

    Args:
        text: what was finished and how to continue.
    """

    def __init__(self, text: str = "terminated; no file was left half-written"):
        super().__init__(TERMINATED)
        self.text = text


def exit_code(error: BaseException) -> int:
    """The exit code of an error.

    >>> exit_code(BadInput("no")), exit_code(BudgetNotMet("no")), exit_code(OSError("no"))
    (2, 3, 1)
    """
    if isinstance(error, KeyboardInterrupt | Interrupted) or type(error).__name__ == "Abort":
        return INTERRUPTED
    if isinstance(error, Terminated):
        return TERMINATED
    if isinstance(error, BudgetNotMet):
        return BUDGET_NOT_MET
    if isinstance(error, BadInput | UnknownName) or _from_parser(error):
        return WRONG_USAGE
    return FAILURE


def message(error: BaseException) -> str | None:
    """The message for the user; None for an unexpected error, which is shown with its traceback."""
    if isinstance(error, SartorError):
        return "\n".join([str(error), *getattr(error, "__notes__", ())])
    if isinstance(error, Terminated):
        return error.text
    if isinstance(error, KeyboardInterrupt) or type(error).__name__ == "Abort":
        return "interrupted; no file was left half-written"
    if _from_parser(error):
        return error.format_message()  # type: ignore[attr-defined]
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full{_file_of(error)}; free some space and run the command again"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror.lower()}{_file_of(error)}"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "out of memory; a smaller --batch needs less"
    return None


def _file_of(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""


def _from_parser(error: BaseException) -> bool:
    """Whether the command-line parser raised it. Its class differs between versions of typer, its attributes do not."""
    return callable(getattr(error, "format_message", None)) and hasattr(error, "exit_code")
