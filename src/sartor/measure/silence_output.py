"""Silences the warnings, logs and prints of third-party exporters; their exceptions pass."""

from __future__ import annotations

import ctypes
import io
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings, log lines or prints from inside the block; exceptions pass."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Drop what native code writes to standard output inside the block, which `--json` must keep clean."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    _flush_c()
    try:
        kept = os.dup(1)
    except OSError:  # there is no standard output
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        yield
    finally:
        _flush_c()
        os.dup2(kept, 1)
        os.close(kept)


def _flush_c() -> None:
    """Write out the buffer of native code, which otherwise waits until it is full or the process ends."""
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows, where a library has to be named
        ctypes.CDLL(None).fflush(None)


def first_line(error: BaseException, limit: int = 240) -> str:
    """The message of an exception in one line; if it is a heading with a list, the first item of the list.

    >>> first_line(ValueError("no such axis\\nlong story"))
    'ValueError: no such axis'
    >>> first_line(ValueError("violated:\\n  - the size is 3"))
    'ValueError: the size is 3'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    message = lines[1][2:] if len(lines) > 1 and lines[1].startswith("- ") else lines[0]
    text = f"{type(error).__name__}: {message}"
    return text if len(text) <= limit else text[: limit - 3] + "..."
