"""The files that a run delivers: each is written once, timed as it lies there, and handed over with these bytes."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.errors import MissingExtra, SartorError
from sartor.export.files import atomic_path
from sartor.export.onnx import export_onnx
from sartor.measure import Artefact, parse_target
from sartor.measure.targets import file_dtype, show_target
from sartor.measure.torch_backends import placed
from sartor.structure.example import Example, with_batch
from sartor.types import Target

_TOLERANCE = {"float32": 1e-3, "float16": 5e-2}  # largest relative error of a delivered file against eager


@dataclass(frozen=True)
class DeliveredFile:
    """An exported network."""

    path: Path
    sha256: str
    state: str  # digest of the tensors of the network it was exported from
    report: dict[str, Any]  # of `export_onnx`


@dataclass(frozen=True)
class Delivery:
    """Exports the fitted network and the original alike, and gives both as artefacts on a target.

    A target that reads ONNX files is delivered `model.onnx`, written by the exporter of `export_onnx`; every other
    target is delivered the module itself. A file whose dtype or fixed batch size belongs to one target says so in its
    name: `model.float16.onnx`, `model.batch8.onnx`.

    Args:
        original: borrowed.
        example: inputs of one sample.
        folder: where the files of the fitted network are written; None: a temporary folder, removed with this object.
    """

    original: nn.Module
    example: Example
    folder: Path | None = None
    files: dict[str, DeliveredFile] = field(default_factory=dict, init=False)  # of the fitted network, by file name
    _aside: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="sartor-"), init=False, repr=False
    )
    _originals: dict[str, DeliveredFile] = field(default_factory=dict, init=False, repr=False)

    def original_on(self, target: str | Target) -> Artefact:
        """The original, exported as the fitted network will be.

        Raises:
            SartorError: it cannot be exported.
        """
        return self._artefact(self.original, target, self._originals, Path(self._aside.name) / "original")

    def fitted_on(self, network: nn.Module, target: str | Target) -> Artefact:
        """The network that is delivered; its file is written at the first call.

        Raises:
            SartorError: it cannot be exported.
        """
        return self._artefact(network, target, self.files, self.folder or Path(self._aside.name) / "fitted")

    def trial_on(self, network: nn.Module, target: str | Target) -> Artefact:
        """A network of the search, exported as the delivered one will be; the next trial replaces its file.

        Raises:
            SartorError: it cannot be exported.
        """
        return self._artefact(network, target, {}, Path(self._aside.name) / "trial")

    def check_target(self, target: str | Target) -> None:
        """Put the original on a target once, so that what cannot work fails before anything is computed.

        Raises:
            SartorError: the original cannot be exported, or does not run on the target; the message says that nothing
                was computed yet.
        """
        try:
            with self.original_on(target).prepared(self.example) as runnable:
                runnable.run()
        except MissingExtra:
            raise
        except SartorError as e:
            text = (
                f"the original cannot be timed as it would be delivered for {_text(target)}, so nothing was computed: "
            )
            e.args = (text + str(e), *e.args[1:])
            raise

    def current(self, network: nn.Module, name: str) -> DeliveredFile | None:
        """The delivered file of this name if it still is that of the network; None: another, or changed weights."""
        file = self.files.get(name)
        return file if file is not None and file.path.is_file() and file.state == state_digest(network) else None

    def file_for(self, network: nn.Module, target: str | Target) -> DeliveredFile | None:
        """The file that was timed on a target; None: the module was."""
        path = self.fitted_on(network, target).path
        return next((file for file in self.files.values() if file.path == path), None)

    def copy_to(self, network: nn.Module, folder: Path) -> dict[str, str]:
        """Copy the files that still are those of the network; {kind: name} as a record lists them."""
        for name in self.files:
            file = self.current(network, name)
            if file is not None and file.path.parent != folder:
                with atomic_path(folder / name) as temporary:
                    shutil.copyfile(file.path, temporary)
        return self.names(network)

    def names(self, network: nn.Module) -> dict[str, str]:
        """{kind: file name} of the files that are those of the network: {"onnx": "model.onnx"}."""
        return {_kind(name): name for name in self.files if self.current(network, name) is not None}

    def _artefact(
        self, network: nn.Module, target: str | Target, files: dict[str, DeliveredFile], folder: Path
    ) -> Artefact:
        place = parse_target(target)
        dtype = file_dtype(place)
        if dtype is None:
            return Artefact(network, place)
        stem = "model" if dtype == "float32" else f"model.{dtype}"
        for name in (f"{stem}.onnx", f"{stem}.batch{place.batch}.onnx"):
            if name not in files:
                files[name] = _exported(network, self.example, place, folder / name)
            file = files[name]
            if file.report["dynamic"] or file.report["batches"] == [place.batch]:
                break
        return Artefact(file.path, place)


def _exported(network: nn.Module, example: Example, target: Target, path: Path) -> DeliveredFile:
    dtype = file_dtype(target) or "float32"
    home = Target("eager", "cpu", batch=target.batch, dtype=dtype)
    module, inputs = placed(network, with_batch(example, target.batch), home)
    report = export_onnx(module, inputs, path, tolerance=_TOLERANCE[dtype])
    return DeliveredFile(path, hashlib.sha256(path.read_bytes()).hexdigest(), state_digest(network), report)


def state_digest(network: nn.Module) -> str:
    """SHA-256 over names, dtypes, shapes and values of every parameter and buffer."""
    digest = hashlib.sha256()
    for name, t in network.state_dict().items():
        digest.update(f"{name} {getattr(t, 'dtype', '')} {list(getattr(t, 'shape', ()))}".encode())
        if hasattr(t, "detach"):
            flat = t.detach().cpu().contiguous().flatten()
            digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()


def _kind(name: str) -> str:
    """
    >>> _kind("model.onnx"), _kind("model.float16.onnx")
    ('onnx', 'float16.onnx')
    """
    return name.partition(".")[2]


def _text(target: str | Target) -> str:
    return target if isinstance(target, str) else show_target(target)
