"""A process that is killed at a chosen place, or whose disk is full from a chosen file operation on.

Places are counted: calls of functions (in Python and from Python into C), and changes of files below a folder. The work
runs in a forked process, so it starts as the parent is; nothing of what it did to memory stays.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Act = Callable[[Callable[[str], None]], None]  # receives what it calls with the name of each stage that begins
_CHANGES = ("replace", "rename", "mkdir", "unlink", "rmdir", "fsync")


@dataclass(frozen=True)
class Place:
    """Where a process is killed: before the n-th call or file operation after a stage began, from 1."""

    n: int
    of: str = "call"  # or "file operation"
    stage: str = ""  # "": since the start


@dataclass
class Course:
    """What happened in an undisturbed run: calls and file operations by the stage they belong to."""

    calls: dict[str, int] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    code: int = 0  # exit code of the process; negative: the signal that ended it

    @property
    def killed(self) -> bool:
        """Whether a signal ended the process."""
        return self.code < 0


class _Watch:
    """Counts, and kills."""

    def __init__(self, folder: Path, place: Place | None):
        self.folder, self.place = str(folder.resolve()), place
        self.stage = ""
        self.course = Course({"": 0}, {"": 0})

    def begin(self, stage: str) -> None:
        """A stage begins."""
        self.course.calls.setdefault(stage, 0)
        self.course.operations.setdefault(stage, 0)
        self.stage = stage

    def call(self, frame: Any, event: str, argument: Any) -> None:
        """The profile function of the interpreter."""
        if event in ("call", "c_call"):
            self._count(self.course.calls, "call")

    def operation(self, path: Any) -> None:
        """A file operation is about to happen."""
        if isinstance(path, int) or str(path).startswith(self.folder):
            self._count(self.course.operations, "file operation")

    def _count(self, counts: dict[str, int], of: str) -> None:
        counts[self.stage] += 1
        place = self.place
        if place is not None and place.of == of:
            n = counts.get(place.stage, 0) if place.stage else sum(counts.values())
            if n == place.n and (not place.stage or place.stage == self.stage):
                os.kill(os.getpid(), signal.SIGKILL)


def in_process(act: Act, folder: Path, place: Place | None = None) -> Course:
    """Do it in a forked process that is killed at a place; None: it is not.

    Args:
        act: the work.
        folder: whose files are counted.
        place: see `Place`.

    Returns:
        What was counted, if the process came to its end; its code otherwise.
    """
    with tempfile.TemporaryFile("w+") as answer:
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            code = 3
            try:
                watch = _Watch(folder, place)
                with file_operations(watch.operation):
                    if place is None or place.of == "call":
                        sys.setprofile(watch.call)
                    act(watch.begin)
                    sys.setprofile(None)
                json.dump([watch.course.calls, watch.course.operations], answer)
                answer.flush()
                code = 0
            except BaseException:
                sys.setprofile(None)
                traceback.print_exc()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        answer.seek(0)
        calls, operations = json.loads(answer.read()) if code == 0 else ({}, {})
        return Course(calls, operations, code)


@contextmanager
def file_operations(before: Callable[[Any], None]) -> Iterator[None]:
    """Inside the block, `before` is called with the path ahead of everything that changes a file from Python.

    That is opening a file to write, and replacing, making, removing and flushing to disk; of a flush it receives the
    number of the open file. What libraries in other languages write is not seen. What `before` raises, the operation
    raises.
    """
    saved = {name: getattr(os, name) for name in _CHANGES}
    opened, low = io.open, os.open

    def changing(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            before(args[1] if name in ("replace", "rename") and len(args) > 1 else args[0])
            return saved[name](*args, **kwargs)

        return call

    def opening(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
        if set(mode) & set("wax+") and not isinstance(file, int):
            before(file)
        return opened(file, mode, *args, **kwargs)

    def opening_low(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            before(path)
        return low(path, flags, *args, **kwargs)

    for name in _CHANGES:
        setattr(os, name, changing(name))
    os.open = opening_low  # type: ignore[assignment]
    io.open = builtins.open = opening  # type: ignore[assignment]
    try:
        yield
    finally:
        for name, function in saved.items():
            setattr(os, name, function)
        os.open = low
        io.open = builtins.open = opened  # type: ignore[assignment]


@contextmanager
def full_disk(folder: Path, after: int) -> Iterator[list[str]]:
    """Inside the block, no file below the folder can be written any more after so many file operations.

    Removing still works. Yields a list of what failed.
    """
    failed: list[str] = []
    count = 0
    inside = str(folder.resolve())

    def before(path: Any) -> None:
        nonlocal count
        if isinstance(path, int) or not str(path).startswith(inside):
            return
        count += 1
        removing = sys._getframe(1).f_code.co_name == "call" and sys._getframe(1).f_locals["name"] in (
            "unlink", "rmdir", "replace", "rename",
        )  # fmt: skip
        if count > after and not removing:
            failed.append(str(path))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    with file_operations(before):
        yield failed


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Inside the block, no file of this process can grow beyond so many bytes, whatever library writes it."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


__all__ = ["Act", "Course", "Place", "file_operations", "file_size_limit", "full_disk", "in_process"]
