"""Checkpoints of a training: everything that changes, at epochs and by time, of which the last good ones survive."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.export.parts import read_parts, write_parts
from sartor.types import SILENT, Listener

EVERY_S = 60.0  # seconds between checkpoints within an epoch
SHARE = 0.05  # of the time, at most, is spent on writing
TRAINING = "training-"  # the beginning of the names of the files
_NAME = re.compile(rf"{TRAINING}(\d+)-(\d+)\.safetensors")
Parts = dict[str, Any]


class Beside(Protocol):
    """What belongs to a training and is kept with it, such as the record of a run."""

    def state(self) -> Any:
        """Plain values and tensors."""
        ...

    def restore(self, state: Any) -> None:
        """Take a state back; raises CorruptFile if it is none."""
        ...


class Checkpoints:
    """Checkpoints of one training.

    Each holds named parts and its place: epochs that are finished, and steps that were done in the next one. A place
    within an epoch counts only together with the start of that epoch. On disk stay the last two places and the start of
    the last epoch, so that a damaged file costs little.

    Args:
        folder: where they are written; None: only the start of the last epoch is kept, in memory.
        key: name -> value that must be the same when a training is continued; see `last`.
        beside: is kept under "beside", and put back when the training is continued.
        listener: noted if a file cannot be written, or is damaged.
        every_s: seconds between checkpoints within an epoch; None: `EVERY_S`; 0: one after every step, whatever it
            costs.
    """

    def __init__(
        self, folder: Path | None, *, key: Mapping[str, str] | None = None, beside: Beside | None = None,
        listener: Listener = SILENT, every_s: float | None = None,
    ):  # fmt: skip
        self.folder, self.key, self.beside, self.listener = folder, dict(key or {}), beside, listener
        self.every_s = EVERY_S if every_s is None else every_s
        self._start: tuple[int, Parts] | None = None  # of the last epoch, while it is not on disk
        self._written_at, self._cost = time.monotonic(), 0.0

    def __str__(self) -> str:
        return str(self.folder / f"{TRAINING}*" if self.folder is not None else "checkpoints in memory")

    @property
    def within_epochs(self) -> bool:
        """Whether places within an epoch are kept."""
        return self.folder is not None

    def begin_epoch(self, epoch: int, parts: Parts, *, must: bool = False) -> None:
        """Keep the start of an epoch: on disk, or in memory where writing would take too much of the time.

        Args:
            epoch: epochs that are finished.
            parts: name -> value, as `write_parts` takes them.
            must: whether it has to go to disk, if there is a folder.
        """
        self._start = None
        if self.folder is not None and (must or self._affordable()) and self._write(epoch, 0, self._whole(parts)):
            return
        self._start = (epoch, _copied(self._whole(parts)))

    def due(self) -> bool:
        """Whether a place within the epoch should be written now."""
        since = time.monotonic() - self._written_at
        return self.folder is not None and since >= self.every_s and self._affordable()

    def write(self, epoch: int, step: int, parts: Parts) -> bool:
        """Write a place within an epoch; whether that was possible."""
        if self.folder is None:
            return False
        if self._start is not None and self._write(self._start[0], 0, self._start[1]):
            self._start = None
        return self._start is None and self._write(epoch, step, self._whole(parts))

    def start_of(self, epoch: int) -> Parts | None:
        """The start of an epoch, if it was kept."""
        if self._start is not None and self._start[0] == epoch:
            return _copied(self._start[1])
        return None if self.folder is None else self._read(self._path(epoch, 0))

    def last(self) -> Parts | None:
        """The last place that is intact; None: there is none, or it belongs to another training, as a note says."""
        for epoch, step in reversed(self._places()):
            parts = self._read(self._path(epoch, step))
            if parts is None or (step and self._read(self._path(epoch, 0)) is None):
                continue
            changed = [name for name in self.key if parts["key"].get(name) != self.key[name]]
            if not changed:
                return parts
            self.listener.note(
                f"the training of an interrupted run was not continued: it had another {', '.join(changed)}"
            )
            self.forget_after(-1, 0)
            return None
        return None

    def restore_beside(self, parts: Parts) -> None:
        """Put back what was kept beside the training."""
        if self.beside is not None:
            self.beside.restore(parts.get("beside"))

    def forget_after(self, epoch: int, step: int) -> None:
        """Remove places behind this one."""
        for place in self._places():
            if place > (epoch, step):
                with suppress(OSError):
                    self._path(*place).unlink()

    def _whole(self, parts: Parts) -> Parts:
        return {**parts, "key": self.key, "beside": None if self.beside is None else self.beside.state()}

    def _affordable(self) -> bool:
        return not self.every_s or time.monotonic() - self._written_at >= self._cost / SHARE

    def _write(self, epoch: int, step: int, parts: Parts) -> bool:
        began = time.monotonic()
        path = self._path(epoch, step)
        try:
            write_parts(path, parts)
        except SartorError as e:
            self.listener.note(f"a checkpoint of the training could not be written: {e}")
            return False
        finally:
            self._written_at = time.monotonic()
            self._cost = self._written_at - began
        places = self._places()
        keep = {*places[-2:], *[p for p in places if p[1] == 0][-1:], (epoch, step)}
        for place in places:
            if place not in keep:
                with suppress(OSError):
                    self._path(*place).unlink()
        return True

    def _read(self, path: Path) -> Parts | None:
        try:
            parts = read_parts(path)
            if not isinstance(parts.get("key"), dict):
                raise CorruptFile(f"{path}: expected a part 'key'")
        except BadInput:
            return None
        except CorruptFile as e:
            self.listener.note(f"a checkpoint of the training is damaged and was left out: {e}")
            return None
        return parts

    def _places(self) -> list[tuple[int, int]]:
        """(epoch, step) of the files, in order."""
        if self.folder is None or not self.folder.is_dir():
            return []
        names = [_NAME.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted((int(m[1]), int(m[2])) for m in names if m)

    def _path(self, epoch: int, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{TRAINING}{epoch:05}-{step:08}.safetensors"


def _copied(value: Any) -> Any:
    """A copy that shares no tensor with the value; tensors lie on the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_copied(v) for v in value) if type(value) in (list, tuple) else value
    return value


__all__ = ["EVERY_S", "Checkpoints"]
