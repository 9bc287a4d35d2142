"""What is held still around a measurement: the core it runs on, and what tiny numbers cost."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def pinned() -> Iterator[int | None]:
    """The calling thread stays on the core it is on; gives its number, None where that cannot be arranged.

    For work of one thread: threads that a runtime has made earlier keep the cores they had.
    """
    core = _core()
    try:
        before = os.sched_getaffinity(0)
        if core not in before:
            core = None
        else:
            os.sched_setaffinity(0, {core})
    except (AttributeError, OSError):  # not on Linux, or not allowed
        core = None
    try:
        yield core
    finally:
        if core is not None:
            os.sched_setaffinity(0, before)


def _core() -> int | None:
    try:
        found = int(ctypes.CDLL(None).sched_getcpu())
    except (AttributeError, OSError, TypeError):  # no such call in this C library
        return None
    return found if found >= 0 else None


@contextmanager
def denormals_flushed() -> Iterator[bool]:
    """Numbers too small for full precision count as zero on the calling thread; gives whether the processor can.

    They may take a hundred times as long to add, and random weights or a zero example can be full of them: what they
    cost is not a matter of widths.
    """
    before = _flushes()
    can = torch.set_flush_denormal(True)
    try:
        yield can
    finally:
        torch.set_flush_denormal(before)


def _flushes() -> bool:
    """Whether the calling thread takes the least double for zero."""
    return bool((torch.tensor([1e-310], dtype=torch.float64) * 1.0 == 0).item())
