"""Where a command writes, and what may already be there."""

from __future__ import annotations

from pathlib import Path

from sartor.errors import BadInput


def taken(folder: Path, *, force: bool) -> bool:
    """Whether something is in the folder that --force allows to replace.

    Raises:
        BadInput: it is a file, or something is in it and --force was not said.
    """
    if folder.is_file():
        raise BadInput(f"--out {folder}: expected a folder; there is a file of that name")
    if not folder.is_dir() or not any(folder.iterdir()):
        return False
    if not force:
        raise BadInput(f"--out {folder} is not empty: choose another folder, or replace it with --force")
    return True
