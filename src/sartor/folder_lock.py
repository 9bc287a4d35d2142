"""One writer for each folder: a lock file that says which process writes there.

The file holds process, machine and start. While the process lives, the operating system holds a lock on the file; when
it ends, however it ends, that lock is gone, and the file that is left shows that the folder was left in the middle.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from sartor.errors import FolderInUse, SartorError

try:
    import fcntl
except ImportError:  # not on POSIX: there, a lock is stale if its process has ended
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
_MOST_BYTES = 4096
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_posix: ModuleType | None = fcntl


@dataclass
class _Held:
    """A lock of this process."""

    fd: int
    process: int
    thread: int
    depth: int = 1


_HELD: dict[Path, _Held] = {}
_GUARD = threading.Lock()


@contextmanager
def held(folder: str | Path, say: Callable[[str], None] | None = None) -> Iterator[None]:
    """Be the only writer of a folder inside the block. The folder is made if there is none.

    The thread that holds a folder may enter again.

    Args:
        folder: that is written to.
        say: receives a sentence if the lock of a process that ended was taken over; None: it becomes a warning.

    Raises:
        FolderInUse: another process or thread writes there; says which, where and since when.
        SartorError: the folder cannot be written.
    """
    try:
        place = Path(folder).resolve()
    except (ValueError, OSError) as e:  # a name with a zero byte, a loop of links
        raise SartorError(f"cannot write to {str(folder)!r}: {e}") from e
    sentence = _acquire(place)
    try:
        if sentence:
            (say or warnings.warn)(sentence)
        yield
    finally:
        _release(place)


def holder(folder: str | Path) -> dict[str, Any] | None:
    """Who holds the folder, or held it when it ended: {"process", "machine", "since"}; None: nobody."""
    place = Path(folder).resolve()
    with _GUARD:
        if place in _HELD:  # closing another descriptor of the file would give up the lock of this process
            return _read(_HELD[place].fd)
    try:
        fd = os.open(place / LOCK, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    try:
        return _read(fd)
    finally:
        os.close(fd)


def _read(fd: int) -> dict[str, Any] | None:
    try:
        os.lseek(fd, 0, os.SEEK_SET)
        facts = json.loads(os.read(fd, _MOST_BYTES))
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


def is_held(folder: str | Path) -> bool:
    """Whether a living process writes to the folder; of a process on another machine it is assumed."""
    place = Path(folder).resolve()
    with _GUARD:
        if place in _HELD and _HELD[place].process == os.getpid():
            return True
        try:
            fd = os.open(place / LOCK, _FLAGS & ~os.O_CREAT)
        except OSError:
            return False
        try:
            return not _is_free(_try_lock(fd), _read(fd))
        finally:
            os.close(fd)


def _acquire(place: Path) -> str:
    with _GUARD:
        mine = _HELD.get(place)
        if mine is not None and mine.process != os.getpid():  # of the process that this one was forked from
            with suppress(OSError):
                os.close(mine.fd)
            del _HELD[place]
            mine = None
        if mine is not None:
            if mine.thread != threading.get_ident():
                raise FolderInUse(f"{place}: another thread of this process writes to this folder")
            mine.depth += 1
            return ""
        try:
            place.mkdir(parents=True, exist_ok=True)
            fd, before = _locked(place)
            os.truncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
            os.write(fd, json.dumps(_facts()).encode())
        except OSError as e:
            raise SartorError(f"cannot write to {place}: {e.strerror or e}") from e
        _HELD[place] = _Held(fd, os.getpid(), threading.get_ident())
    if before is None:
        return ""
    return f"{place}: taken over from {_who(before)}, which ended before it was done"


def _locked(place: Path) -> tuple[int, dict[str, Any] | None]:
    """A descriptor of the lock file, locked, and who held it before without releasing it."""
    path, tries = place / LOCK, 2
    while True:
        fd = os.open(path, _FLAGS, 0o644)
        try:
            free = _try_lock(fd)
            before = _read(fd)
            same = os.path.samestat(os.fstat(fd), os.stat(path)) if path.exists() else False
            if free and not same:  # the holder removed the file in between
                os.close(fd)
                continue
            if not _is_free(free, before):
                if tries:  # somebody may only have looked
                    tries -= 1
                    os.close(fd)
                    time.sleep(0.05)
                    continue
                raise FolderInUse(_in_use(place, before))
        except BaseException:
            with suppress(OSError):
                os.close(fd)
            raise
        return fd, before


def _is_free(locked: bool | None, before: dict[str, Any] | None) -> bool:
    """Whether a folder may be taken.

    Args:
        locked: whether this process has locked the file; None: the file system has no locks.
        before: what the file says.
    """
    ours = before is None or before.get("machine") == socket.gethostname()
    if locked is None:
        return before is None or (ours and not _lives(before.get("process")))
    return locked and ours


def _try_lock(fd: int) -> bool | None:
    """Lock a file for this process; None: the file system cannot."""
    if _posix is None:
        return None
    try:
        _posix.lockf(fd, _posix.LOCK_EX | _posix.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _release(place: Path) -> None:
    with _GUARD:
        mine = _HELD[place]
        mine.depth -= 1
        if mine.depth:
            return
        del _HELD[place]
        with suppress(OSError):
            (place / LOCK).unlink()
        with suppress(OSError):
            os.close(mine.fd)


def _facts() -> dict[str, Any]:
    return {
        "process": os.getpid(),
        "machine": socket.gethostname(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _lives(process: Any) -> bool:
    if type(process) is not int or process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _who(facts: dict[str, Any] | None) -> str:
    if facts is None:
        return "another process"
    return f"process {facts.get('process')} on {facts.get('machine')!s:.100} (since {facts.get('since')!s:.40})"


def _in_use(place: Path, facts: dict[str, Any] | None) -> str:
    ours = facts is None or facts.get("machine") == socket.gethostname()
    text = f"{place}: {_who(facts)} writes to this folder; wait for it, or choose another folder"
    return text if ours else f"{text}. If that process has ended, remove {place / LOCK}"


__all__ = ["LOCK", "held", "holder", "is_held"]
