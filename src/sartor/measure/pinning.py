"""What is held still around a measurement: the core it runs on, the memory it works in, and what tiny numbers cost."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# options of glibc's mallopt, and what they are afterwards: where its own thresholds come to rest in a process that
# has given large memory back (that they move by themselves cannot be had again)
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MEANWHILE = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
_AFTERWARDS = ((_MMAP_MAX, 65536), (_TRIM_THRESHOLD, 64 * 2**20), (_MMAP_THRESHOLD, 32 * 2**20))


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
def memory_kept() -> Iterator[bool]:
    """Memory that is given back stays with the process, ready for the next who asks; gives whether that can be had.

    Otherwise glibc hands large pieces to the system and takes them anew, page by page, at every inference or at none:
    it depends on what else the process has ever freed. ResNet-18 under torch.compile touched thousands of new pages an
    inference in one process and none in another.

    Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    can = platform.libc_ver()[0] == "glibc" and all(_mallopt(*option) for option in _MEANWHILE)
    try:
        yield can
    finally:
        if can:
            for option in _AFTERWARDS:
                _mallopt(*option)
            ctypes.CDLL(None).malloc_trim(0)


def _mallopt(option: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(option, value))
    except (AttributeError, OSError, TypeError):
        return False


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
