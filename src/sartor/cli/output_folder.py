"""The folder a command writes to."""

from __future__ import annotations

import re
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from sartor.errors import BadInput
from sartor.folder_lock import LOCK, held

LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}(\.\w+)*")  # a file that was being written when its process died


def is_leftover(entry: Path) -> bool:
    """Whether a killed process left this behind: a half-written file, or a folder that it had not filled yet."""
    from sartor.export.manifest import STAGE
    from sartor.run.kept_stages import STAGES

    if entry.is_symlink():
        return False
    if entry.is_dir():
        return entry.name in (STAGE, STAGES) and not any(entry.iterdir())
    return bool(LEFTOVER.fullmatch(entry.name))


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
