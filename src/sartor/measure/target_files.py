"""Targets that a file describes: a runtime of one's own in Python (.py), or another machine (.toml).

Their path is a target's name, with a "/" or not. In a folder of targets the name without its ending is enough.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sartor.errors import BadInput
from sartor.measure.own_target import own_target
from sartor.measure.remote import remote_target
from sartor.registry import Entry

READERS: Mapping[str, Callable[[Path, str], Entry[Any]]] = {".py": own_target, ".toml": remote_target}
_read: dict[tuple[str, Path, int, int], Entry[Any]] = {}  # by name and state of the file


def describes(name: str) -> bool:
    """Whether a target's name is the path of such a file.

    >>> describes("boards/pi.toml"), describes("eager-cpu")
    (True, False)
    """
    return name.endswith(tuple(READERS))


def read_target(path: Path, name: str) -> Entry[Any]:
    """What a file says of its target; read again only after it changed.

    Args:
        path: the file.
        name: as the target was asked for.

    Raises:
        BadInput: there is no such file, or it is wrong.
    """
    if not path.is_file():
        raise BadInput(f"target {name!r}: expected a file that describes it; {str(path)!r} does not exist")
    path = path.resolve()
    state = path.stat()
    key = (name, path, state.st_mtime_ns, state.st_size)
    if key not in _read:
        _read[key] = READERS[path.suffix](path, name)
    return _read[key]


def folders() -> list[Path]:
    """Where targets are looked for by name: the folders in SARTOR_TARGETS, else the one among the user's settings."""
    given = os.environ.get("SARTOR_TARGETS")
    if given is not None:
        return [Path(p).expanduser() for p in given.split(os.pathsep) if p]
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA", home / "AppData" / "Roaming"))
    else:
        base = Path(os.environ.get("XDG_CONFIG_HOME", home / ".config"))
    return [base / "sartor" / "targets"]


def named(name: str) -> Path | None:
    """The file of a target in the folders of targets, by its name without the ending."""
    if not name or name != Path(name).name:
        return None
    beside = (folder / (name + ending) for folder in folders() for ending in READERS)
    return next((path for path in beside if path.is_file()), None)


def targets_here() -> dict[str, Path]:
    """Every file in the folders of targets, by name; of two with one name, the first."""
    found: dict[str, Path] = {}
    for folder in folders():
        for path in sorted(folder.glob("*")) if folder.is_dir() else ():
            if path.suffix in READERS and not path.name.startswith(("_", ".")):
                found.setdefault(path.stem, path)
    return found
