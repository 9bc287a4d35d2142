"""The folder a command writes to."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from pathlib import Path

from sartor.errors import BadInput
from sartor.folder_lock import LOCK, held


def writing_to(folder: Path) -> AbstractContextManager[None]:
    """Be the only writer of a folder inside; see `held`. A lock that was taken over is said on stderr."""
    return held(folder, lambda sentence: print(f"sartor: {sentence}", file=sys.stderr))


def must_be_replaced(folder: Path, *, force: bool) -> bool:
    """Whether the folder has contents that --force allows to replace; False for a missing or empty folder.

    Raises:
        BadInput: the path is a file, or the folder is not empty and --force was not given.
    """
    if folder.is_file():
        raise BadInput(f"--out {folder}: expected a folder; there is a file of that name")
    if not folder.is_dir() or all(entry.name == LOCK for entry in folder.iterdir()):
        return False
    if not force:
        raise BadInput(f"--out {folder} is not empty: choose another folder, or replace it with --force")
    return True
