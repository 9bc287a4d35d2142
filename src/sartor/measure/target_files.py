"""Targets that a file describes: a custom runtime in Python (.py), or another machine (.toml).

The path of the file is the name of the target. For a file in a folder of targets (see `folders`), the name of the file
without its ending is enough.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sartor.errors import BadInput
from sartor.measure.custom_target import custom_target
from sartor.measure.remote_target import remote_target
from sartor.registry import Entry

READERS: Mapping[str, Callable[[Path, str], Entry[Any]]] = {".py": custom_target, ".toml": remote_target}
_entries: dict[tuple[str, Path, int, int], Entry[Any]] = {}  # by name, path, modification time and size


def describes(name: str) -> bool:
    """Whether a target's name is the path of such a file.

    >>> describes("boards/pi.toml"), describes("eager-cpu")
    (True, False)
    """
    return name.endswith(tuple(READERS))


def read_target(path: Path, name: str) -> Entry[Any]:
    """The registry entry of the target that a file describes; the file is read again only after it changed.

    Args:
        path: the file.
        name: the target's name as the user wrote it.

    Raises:
        BadInput: there is no such file, or it is wrong.
    """
    if not _is_file(path):
        raise BadInput(f"target {name!r}: expected a file that describes it; {str(path)!r} does not exist")
    path = path.resolve()
    state = path.stat()
    key = (name, path, state.st_mtime_ns, state.st_size)
    if key not in _entries:
        _entries[key] = READERS[path.suffix](path, name)
    return _entries[key]


def folders() -> list[Path]:
    """The folders of targets: those in SARTOR_TARGETS, else "sartor/targets" in the user's folder of settings."""
    given = os.environ.get("SARTOR_TARGETS")
    if given is not None:
        return [Path(p).expanduser() for p in given.split(os.pathsep) if p]
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA", home / "AppData" / "Roaming"))
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME", home / ".config"))
    return [base / "sartor" / "targets"]


def file_named(name: str) -> Path | None:
    """The file of this name, without its ending, in the folders of targets; None: there is none."""
    if not name or name != Path(name).name:
        return None
    candidates = (folder / (name + ending) for folder in folders() for ending in READERS)
    return next((path for path in candidates if _is_file(path)), None)


def _is_file(path: Path) -> bool:
    """Whether there is such a file; False for names that no file system takes."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def targets_here() -> dict[str, Path]:
    """Every file in the folders of targets by name; if two have the same name, the first."""
    by_name: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.suffix in READERS and not path.name.startswith(("_", ".")):
                by_name.setdefault(path.stem, path)
    return by_name
