"""The manifest of a folder: which files belong together, with size and SHA-256 of each.

Several files are replaced at once. They are written into `.new` inside the folder, together with the manifest they will
have; from that moment they count, wherever they lie. Then each is moved into place. If the process dies before, the
folder is what it was; if it dies after, readers find the files in `.new`, and the next writer moves them.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from sartor.errors import BadInput, CorruptFile
from sartor.export.files import atomic_write, write_failure
from sartor.folder_lock import held
from sartor.json_file import parse_json, read_text
from sartor.types.checked import refusal
from sartor.types.rows import Row
from sartor.version import version

MANIFEST, STAGE = "manifest.json", ".new"
MANIFEST_FORMAT: Literal[1] = 1
_MOST_BYTES = 2**20
_NAME = re.compile(r"\w[\w.\- ]{0,199}", re.ASCII)  # of a file in the folder itself
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FileRow(Row):
    """One file of the folder."""

    bytes: Annotated[int, Field(strict=True, ge=0)]
    sha256: Digest


class Manifest(Row):
    """What manifest.json holds, besides the checksum of itself."""

    format: Literal[1] = MANIFEST_FORMAT
    sartor: str = Field(default_factory=version)
    graph: str | None = None  # fingerprint of the graph that the plan was made for
    plan: Digest | None = None  # SHA-256 of plan.json
    files: dict[str, FileRow]

    def to_text(self) -> str:
        """JSON with one file a line and the checksum of all other fields."""
        fields = self.model_dump(mode="json")
        return json.dumps({**fields, "checksum": _digest(json.dumps(fields).encode())}, indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """The inverse of `to_text`.

        Raises:
            CorruptFile: damaged or changed by hand, or of a later format.
        """
        text = read_text(path, _MOST_BYTES)
        raw = parse_json(text, str(path))
        if not isinstance(raw, dict):
            raise CorruptFile(f"{path}: expected one JSON object; got {type(raw).__name__}")
        try:
            manifest = cls.model_validate({name: value for name, value in raw.items() if name != "checksum"})
        except ValidationError as e:
            raise CorruptFile(str(refusal(e, f"{path}: manifest"))) from e
        bad = [name for name in manifest.files if not _NAME.fullmatch(name) or name == MANIFEST]
        if bad:
            raise CorruptFile(f"{path}: expected names of files in this folder; got {bad[0]!r}")
        if manifest.to_text() != text:
            raise CorruptFile(f"{path}: damaged, or changed after it was written: its checksum differs")
        return manifest


@dataclass(frozen=True)
class Contents:
    """The files of a folder as its manifest lists them."""

    folder: Path
    manifest: Manifest | None  # None: the folder has none
    staged: bool  # whether some of the files still lie in `.new`

    @classmethod
    def of(cls, folder: str | Path) -> Contents:
        """Read the manifest.

        Raises:
            CorruptFile: the manifest is damaged.
        """
        folder = Path(folder)
        stage = folder / STAGE
        if (stage / MANIFEST).exists() and not stage.is_symlink():
            return cls(folder, Manifest.read(stage / MANIFEST), True)
        return cls(folder, Manifest.read(folder / MANIFEST) if (folder / MANIFEST).exists() else None, False)

    def lists(self, name: str) -> bool:
        """Whether the manifest lists a file of this name."""
        return self.manifest is not None and name in self.manifest.files

    def path(self, name: str) -> Path:
        """Where a file lies at present."""
        staged = self.folder / STAGE / name
        return staged if self.staged and staged.exists() else self.folder / name

    def checked(self, name: str) -> Path:
        """The path of a file after its size and SHA-256 were compared with the manifest; unlisted ones are not.

        Raises:
            BadInput: there is no such file.
            CorruptFile: it is damaged, or was changed after it was written.
        """
        path = self.path(name)
        if self.manifest is not None and name in self.manifest.files:
            problem = _problem(path, self.manifest.files[name])
            if problem:
                kind = BadInput if problem == "missing" else CorruptFile
                raise kind(f"{path}: {problem}; {MANIFEST} lists what it was when the folder was written")
        elif not path.is_file():
            raise BadInput(f"{path}: no such file")
        return path

    def problems(self) -> dict[str, str]:
        """File name -> what is wrong with it, for each listed file that is not as the manifest says."""
        files: Mapping[str, FileRow] = {} if self.manifest is None else self.manifest.files
        found = {name: _problem(self.path(name), row) for name, row in files.items()}
        return {name: text for name, text in found.items() if text}


def _problem(path: Path, row: FileRow) -> str:
    if not path.exists():
        return "missing"
    if not path.is_file():
        return "expected a regular file"
    size = path.stat().st_size
    if size != row.bytes:
        return f"expected {row.bytes} bytes; it has {size}"
    return "" if digest_of(path) == row.sha256 else "its SHA-256 is another one: it is damaged, or was changed"


@contextmanager
def replacing_files(folder: str | Path, *, keep: bool = False, adopt: Iterable[str] = ()) -> Iterator[Path]:
    """Write several files of a folder at once, with the manifest that lists them.

    Yields a folder to write into. When the block ends, its files replace those of `folder`, all or none of them. If
    the block raises, nothing has changed.

    Args:
        folder: is made if there is none; no other process may write there.
        keep: whether files that the manifest lists so far stay listed, and its fingerprints.
        adopt: names of files that lie in the folder already and are listed from now on; missing ones are left out.

    Raises:
        FolderInUse: another process writes there.
        CorruptFile: the manifest to keep is damaged.
        SartorError: it cannot be written; the message says why.
    """
    folder = Path(folder)
    with held(folder), write_failure(folder):
        stage = folder / STAGE
        _settle(folder)
        before = Contents.of(folder).manifest if keep else None
        stage.mkdir()
        try:
            yield stage
            _list_files(folder, before, adopt)
        except BaseException:
            if not (stage / MANIFEST).exists():
                shutil.rmtree(stage, ignore_errors=True)
            raise
        _settle(folder)


def _list_files(folder: Path, before: Manifest | None, adopt: Iterable[str]) -> None:
    """Write the manifest of the new files; from now on they count."""
    stage = folder / STAGE
    files = dict(before.files) if before is not None else {}
    adopted = [folder / name for name in adopt if name not in files and (folder / name).is_file()]
    new = {path.name: path for path in (*adopted, *sorted(stage.iterdir()))}
    files |= {name: _row(path) for name, path in new.items()}
    graph = before.graph if before is not None else None
    if "plan.json" in new:
        graph = _fingerprint(new["plan.json"])
    plan = files["plan.json"].sha256 if "plan.json" in files else None
    atomic_write(stage / MANIFEST, Manifest(graph=graph, plan=plan, files=files).to_text())


def _settle(folder: Path) -> None:
    """Move files of an interrupted replacement into place, or remove them if they do not count."""
    stage = folder / STAGE
    if stage.is_symlink():
        stage.unlink()
    elif (stage / MANIFEST).is_file():
        manifest = Manifest.read(stage / MANIFEST)
        for name in manifest.files:
            if (stage / name).exists():
                os.replace(stage / name, folder / name)
        os.replace(stage / MANIFEST, folder / MANIFEST)
    if stage.is_dir():
        shutil.rmtree(stage)


@contextmanager
def replacing_file(path: str | Path) -> Iterator[Path]:
    """Write one file; where its folder has a manifest, the file is listed there.

    Yields the path to write to. Errors as of `replacing_files`.
    """
    path = Path(path)
    if Contents.of(path.parent).manifest is None or not _NAME.fullmatch(path.name):
        yield path
        return
    with replacing_files(path.parent, keep=True) as stage:
        yield stage / path.name


def adopt_files(folder: Path, names: Iterable[str]) -> None:
    """List files of a folder in its manifest as they lie there; a manifest is made if there is none."""
    with replacing_files(folder, keep=(folder / MANIFEST).exists(), adopt=names):
        pass


def digest_of(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _row(path: Path) -> FileRow:
    return FileRow(bytes=path.stat().st_size, sha256=digest_of(path))


def _fingerprint(plan: Path) -> str | None:
    raw: Any = parse_json(read_text(plan), str(plan))
    return raw.get("fingerprint") if isinstance(raw, dict) else None


__all__ = [
    "MANIFEST", "STAGE", "Contents", "FileRow", "Manifest", "adopt_files", "digest_of", "replacing_file",
    "replacing_files",
]  # fmt: skip
