"""The finished stages of a run, kept in its folder until the run has ended, so that it continues where it stopped.

They lie in the folder `checkpoint` inside the run folder. A run folder that has one is that of an unfinished run.
"""

from __future__ import annotations

import hashlib
import inspect
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any, TypeVar

import torch
from torch import nn

from sartor.errors import BadInput, CorruptFile, SartorError
from sartor.export.delivery import state_digest
from sartor.export.files import write_failure
from sartor.export.parts import read_parts, write_parts
from sartor.run.record import Recorder
from sartor.seed import global_states, own_states, set_global_states, set_own_states
from sartor.train.checkpoint import TRAINING, Checkpoints
from sartor.train.loop import CONTINUED
from sartor.train.training_state import batch_digest
from sartor.types import Data, Judge, Recipe, to_plain
from sartor.version import version

STAGES = "checkpoint"  # folder in the run folder
T = TypeVar("T")


@dataclass
class _Open:
    """A run folder that this process works on."""

    depth: int = 1
    incomplete: bool = False


_OPEN: dict[Path, _Open] = {}


@contextmanager
def unfinished(folder: Path) -> Iterator[None]:
    """The folder is that of an unfinished run inside the block; when the outermost block ends, its stages are removed.

    If the block raises, or `mark_incomplete` was called, they stay.

    Raises:
        SartorError: the folder cannot be written.
    """
    place = folder.resolve()
    if place in _OPEN:
        _OPEN[place].depth += 1
        try:
            yield
        finally:
            _OPEN[place].depth -= 1
        return
    with write_failure(folder):
        (folder / STAGES).mkdir(parents=True, exist_ok=True)
    _OPEN[place] = _Open()
    try:
        yield
        if not _OPEN[place].incomplete:
            remove_stages(folder)
    finally:
        del _OPEN[place]
        with suppress(OSError):
            (folder / STAGES).rmdir()  # if it is empty


def mark_incomplete(folder: Path) -> None:
    """Something of the run could not be written: its stages stay."""
    if folder.resolve() in _OPEN:
        _OPEN[folder.resolve()].incomplete = True


def is_unfinished(folder: Path) -> bool:
    """Whether a run in this folder has not ended."""
    return (folder / STAGES).is_dir() and not (folder / STAGES).is_symlink()


def remove_stages(folder: Path) -> None:
    """Remove the kept stages of a folder."""
    place = folder / STAGES
    if place.is_symlink():
        place.unlink()
    elif place.is_dir():
        shutil.rmtree(place, ignore_errors=True)


@dataclass
class KeptStages:
    """The stages of one run in the order in which they are computed; those that are kept are not computed again.

    A stage counts only if all stages before it were taken from the folder, and if what the run is made from (`key`) is
    the same. With each stage the record and all random generators are kept, so that what follows is the same, too.

    Args:
        folder: the run folder; None: nothing is kept.
        recorder: of the run.
        data: whose loaders may have generators of their own.
        key: what the run is made from; grows while that becomes known.
        active: whether stages are kept. Not where a loop of the user's own has trained.
    """

    folder: Path | None
    recorder: Recorder
    data: Data
    key: dict[str, str] = field(default_factory=dict)
    active: bool = True
    trained: bool = False  # whether the training is done: its checkpoints stay, whatever is computed later
    _last: str = ""  # the stage that was taken from the folder last
    _complete: bool = True  # whether all stages so far were
    _number: int = 0  # of the stages so far

    def stage(self, name: str, compute: Callable[[], T], pack: Callable[[T], Any], unpack: Callable[[Any], T]) -> T:
        """The value of a stage: from the folder, or computed and kept.

        Args:
            name: of the stage.
            compute: gives the value.
            pack: value -> plain values and tensors.
            unpack: the inverse of `pack`; raises CorruptFile, BadInput or one of Python's errors if it does not fit.
        """
        self._number += 1
        if self.folder is None or not self.active:
            return compute()
        path = self.folder / STAGES / f"{self._number:02}-{name.replace(' ', '-')}.safetensors"
        if self._complete:
            parts = self._read(path)
            if parts is not None:
                before = self._state()
                try:
                    self._restore(parts)
                    value = unpack(parts["value"])
                except (SartorError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as e:
                    self._restore(before)
                    self.recorder.note(f"the kept stage {name!r} of the interrupted run was not used: {e}")
                else:
                    self._last = name
                    return value
            self.stop_reading()
        value = compute()
        try:
            write_parts(path, {"key": self.key, "value": pack(value), **self._state()})
        except SartorError as e:
            self.recorder.note(f"the stage {name!r} could not be kept: {e}")
        return value

    def checkpoints(self, recipe: Recipe) -> Checkpoints:
        """Where the training is kept."""
        folder = None if self.folder is None else self.folder / STAGES
        key = {**self.key, **training_key(recipe)}
        return Checkpoints(folder, key=key, beside=self.recorder, listener=self.recorder)

    def stop_reading(self) -> None:
        """From now on everything is computed; what was kept of later stages is removed."""
        assert self.folder is not None
        self._complete = False
        for path in sorted((self.folder / STAGES).glob("*.safetensors")):
            earlier = path.name[:2].isdigit() and int(path.name[:2]) < self._number
            if not earlier and not (self.trained and path.name.startswith(TRAINING)):
                with suppress(OSError):
                    path.unlink()
        self._say_continued()

    def conclude(self) -> None:
        """Everything that is kept was computed or taken."""
        if self._complete:
            self._say_continued()

    def _say_continued(self) -> None:
        if self._last:
            self.recorder.note(f"{CONTINUED} after an interruption: everything up to {self._last!r} was kept")

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            parts = read_parts(path)
            key = parts["key"]
            changed = [name for name, value in self.key.items() if key.get(name) != value]
        except BadInput:
            return None
        except (CorruptFile, KeyError, AttributeError) as e:
            self.recorder.note(f"a kept stage of the interrupted run is damaged and is computed again: {e}")
            return None
        if changed:
            names = ", ".join(changed)
            self.recorder.note(
                f"the run in this folder that was interrupted had another {names}: it begins anew from here"
            )
            return None
        return parts

    def _state(self) -> dict[str, Any]:
        owners = loaders_of(self.data)
        return {
            "record": self.recorder.state(),
            "generators": {"global": global_states(), "own": own_states(owners)},
        }

    def _restore(self, parts: Mapping[str, Any]) -> None:
        generators = parts["generators"]
        set_own_states(loaders_of(self.data), generators["own"])
        set_global_states(generators["global"])
        self.recorder.restore(parts["record"])


def loaders_of(data: Data) -> list[Any]:
    """The loaders of a data set, in a fixed order."""
    return [data.train, data.val, data.test, data.calibration]


def request_key(recipe: Recipe, budget: str, seed: int, device: Any, judge: Judge) -> dict[str, str]:
    """What a run was asked for, by name: stages of another request are not used."""
    return {
        "version of Sartor": version(), "version of torch": torch.__version__, "budget": budget, "seed": str(seed),
        "device": str(device), "recipe": _digest(_described({**_fields(recipe), "heal": recipe.repairs})),
        "loss": _digest(_described(judge.loss)),
        "metric": _digest(_described((judge.metric, judge.evaluate, judge.measure))),
    }  # fmt: skip


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, with functions as they are."""
    return {name: getattr(value, name) for name in value.__dataclass_fields__}


def training_key(recipe: Recipe) -> dict[str, str]:
    """What distinguishes one training of a repaired network from another."""
    return {"training": _digest(str(to_plain(recipe.training)))}


def network_key(model: nn.Module, fingerprint: str) -> dict[str, str]:
    """The network that a run works on."""
    return {"graph": fingerprint, "weights of the network": state_digest(model)}


def data_key(data: Data) -> dict[str, str]:
    """The first batch of the parts that judge, by its values. Generators are left as they were."""
    owners = loaders_of(data)
    before, own = global_states(), own_states(owners)
    key: dict[str, str] = {}
    for name, part in (("validation data", data.val), ("test data", data.test)):
        if part is None or hasattr(part, "__next__"):
            continue
        with suppress(Exception):  # a loader that fails does so again where its batches are needed
            key[name] = next(batch_digest(batch) for batch in part)
    set_global_states(before)
    set_own_states(owners, own)
    return key


def batches_key(name: str, batches: Any) -> dict[str, str]:
    """Calibration batches, by their values."""
    return {name: _digest("".join(batch_digest(b) for b in batches))}


def _described(value: Any) -> str:
    """A text that is the same for equal values and for functions of the same code."""
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return f"{type(value).__name__}({_described(_fields(value))})"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_described(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_described, value)) + "]"
    if value is None or isinstance(value, str | int | float | bool):
        return repr(value)
    code = getattr(inspect.unwrap(value) if callable(value) else value, "__code__", None)
    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
    return name + (_code(code) if isinstance(code, CodeType) else "")


def _code(code: CodeType) -> str:
    constants = [_code(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {constants}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


__all__ = [
    "STAGES", "KeptStages", "batches_key", "data_key", "is_unfinished", "loaders_of", "mark_incomplete", "network_key",
    "remove_stages", "request_key", "training_key", "unfinished",
]  # fmt: skip
