"""Third-party exporters talk a lot; what they have to say is either an exception or not ours to show."""

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
    """What native code writes to standard output inside the block is dropped (`--json` promises a clean one)."""
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
    """Native code's own buffer, which is written when it is full or the process ends."""
    with suppress(OSError, AttributeError, TypeError):  # TypeError: Windows, where a library has to be named
        ctypes.CDLL(None).fflush(None)


def first_line(error: BaseException, limit: int = 240) -> str:
    """What an exception says in one line; of a heading with a list below, the first item.

    >>> first_line(ValueError("no such axis\\nlong story"))
    'ValueError: no such axis'
    >>> first_line(ValueError("violated:\\n  - the size is 3"))
    'ValueError: the size is 3'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    said = lines[1][2:] if len(lines) > 1 and lines[1].startswith("- ") else lines[0]
    text = f"{type(error).__name__}: {said}"
    return text if len(text) <= limit else text[: limit - 3] + "..."
