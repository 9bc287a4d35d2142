"""Writes files completely or not at all."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sartor.errors import BadInput, SartorError

_SENTENCES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file is larger than this system allows",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOTDIR: "a part of the path is a file, not a folder",
    errno.EEXIST: "a part of the path is a file, not a folder",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Write to a temporary file in the same folder, then move it into place.

    Yields the path of the temporary file, which has the same ending. When the block ends, the file replaces `path` in
    one step. If the block raises, the file is removed and `path` stays as it was. Missing folders are made.

    Raises:
        BadInput: `path` is a folder.
        SartorError: it cannot be written; the message says why. No file is left behind.
    """
    with _beside(Path(path)) as temporary:
        mode = temporary.stat().st_mode
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, mode)  # some libraries replace the file by one that only its owner may read
        os.replace(temporary, path)


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes; `path` then holds all of it, or its former content if that fails.

    Raises:
        BadInput, SartorError: as `atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(path: str | Path) -> None:
    """Check before long work that `path` can be written. Its folder is made; nothing else stays.

    Raises:
        BadInput, SartorError: as `atomic_path`.
    """
    with _beside(Path(path)):
        pass


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """An empty temporary file in the folder of `path`, removed afterwards; system errors become `SartorError`."""
    if path.is_dir():
        raise BadInput(f"{path}: expected the name of a file; got a folder")
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        with write_failure(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
            yield temporary
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def write_failure(path: Path) -> Iterator[None]:
    """System errors inside the block become a `SartorError` that says why `path` cannot be written."""
    try:
        yield
    except OSError as e:
        reason = _SENTENCES.get(e.errno or 0, e.strerror or str(e))
        raise SartorError(f"cannot write {path}: {reason}; nothing was left behind") from e
