"""Files appear whole or not at all."""

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
    """Write beside, then move into place.

    Yields a path in the same folder with the same ending. When the block ends, what was written there replaces
    `path` in one step; when it raises, it is removed and `path` is as it was. Missing folders are made.

    Raises:
        BadInput: `path` is a folder.
        SartorError: it cannot be written; says why. Nothing is left behind.
    """
    with _beside(Path(path)) as temporary:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)


def atomic_write(path: str | Path, content: str | bytes) -> None:
    """Write text (UTF-8) or bytes so that `path` holds all of it, or what it held before.

    Raises:
        BadInput, SartorError: as `atomic_path`.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def check_writable(path: str | Path) -> None:
    """Find out before long work whether `path` can be written; leaves nothing but its folder.

    Raises:
        BadInput, SartorError: as `atomic_path`.
    """
    with _beside(Path(path)):
        pass


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """An empty file in the folder of `path`, gone afterwards; failures of the system become sentences."""
    if path.is_dir():
        raise BadInput(f"{path}: expected the name of a file; got a folder")
    temporary = path.with_name(f".{path.stem[:100]}.{secrets.token_hex(4)}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
    except OSError as e:
        reason = _SENTENCES.get(e.errno or 0, e.strerror or str(e))
        raise SartorError(f"cannot write {path}: {reason}; nothing was left behind") from e
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
