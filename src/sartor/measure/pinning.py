"""Removes sources of variance from a measurement: pins the core, keeps freed memory, flushes denormal numbers."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# Options of glibc's mallopt. Setting one turns off glibc's automatic thresholds for good, so afterwards they get the
# values that the automatic ones reach in a process that has freed large blocks.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_MEANWHILE = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1))
_AFTERWARDS = ((_MMAP_MAX, 65536), (_TRIM_THRESHOLD, 64 * 2**20), (_MMAP_THRESHOLD, 32 * 2**20))


@contextmanager
def pinned() -> Iterator[int | None]:
    """Pin the calling thread to the core that it is on; yields the core's number, or None if that is not possible.

    For single-threaded work: threads that a runtime made earlier keep their cores.
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
        core = int(ctypes.CDLL(None).sched_getcpu())
    except (AttributeError, OSError, TypeError):  # no such call in this C library
        return None
    return core if core >= 0 else None


@contextmanager
def memory_kept() -> Iterator[bool]:
    """Freed memory stays with the process, ready for the next allocation; yields whether the allocator can do that.

    By default glibc returns large blocks to the system and requests them again, page by page. Whether it does so at
    every inference or never depends on what the process has freed before: ResNet-18 under torch.compile touched
    thousands of new pages per inference in one process and none in another.

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
    """Denormal numbers count as zero on the calling thread; yields whether the processor supports that.

    An addition of denormal numbers may take a hundred times as long, and random weights or an example of zeros can
    produce many of them. Their cost says nothing about widths.
    """
    before = _flushes()
    can = torch.set_flush_denormal(True)
    try:
        yield can
    finally:
        torch.set_flush_denormal(before)


def _flushes() -> bool:
    """Whether the calling thread treats a denormal double as zero."""
    return bool((torch.tensor([1e-310], dtype=torch.float64) * 1.0 == 0).item())
