"""What is delivered, a module or a file: the one value that is judged, timed and saved."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.borrow import borrowed, device_of
from sartor.errors import BadInput, CorruptFile
from sartor.measure.latency import COMPARE_EFFORT, compare_afresh
from sartor.measure.onnx_runtimes import feeds, given_inputs, random_inputs
from sartor.measure.ort_backend import PROVIDERS, open_session
from sartor.measure.program import state_bytes
from sartor.measure.runnable import Runnable
from sartor.measure.silence_output import first_line, quiet
from sartor.measure.targets import TARGETS, RunsFile, find_target, parse_target, require, runs_files
from sartor.structure.example import Example, call, to_device
from sartor.types import Comparison, Effort, Target
from sartor.wrappers import innermost

_TARGETS = {".onnx": "onnxruntime-cpu", ".pt2": "eager-cpu"}  # by ending of a file; its keys are the files there are


class Artefact:
    """A network as it is delivered.

    Args:
        content: a module, which is borrowed, or the path of an .onnx or .pt2 file.
        target: where it is timed; None: "onnxruntime-cpu" for an .onnx file, else "eager-cpu".
        name: what errors call it; "": the file, or the module's class.

    Raises:
        BadInput, UnknownName: another kind of file, or a wrong target.

    >>> Artefact(nn.Linear(3, 2)).run(torch.ones(4, 3)).shape
    torch.Size([4, 2])
    """

    def __init__(self, content: nn.Module | str | Path, target: str | Target | None = None, *, name: str = ""):
        self.module = content if isinstance(content, nn.Module) else None
        self.path = None if isinstance(content, nn.Module) else Path(content)
        if self.path is not None and self.path.suffix not in _TARGETS:
            raise BadInput(f"artefact: expected a module or a file ending in .onnx or .pt2; got {str(self.path)!r}")
        self.target = parse_target(target or ("eager-cpu" if self.path is None else _TARGETS[self.path.suffix]))
        self.name = name or (str(self.path) if self.path is not None else type(self.module).__name__)

    @property
    def bytes(self) -> int:
        """Size of the file; of a module, the size of its parameters and buffers, tied ones once.

        Raises:
            BadInput: the file does not exist.
        """
        if self.module is not None:
            return state_bytes(self.module)
        return self._existing_file().stat().st_size

    def run(self, inputs: Example) -> Any:
        """The outputs for any inputs, in evaluation mode, as tensors.

        A module and a .pt2 file run in torch and give the nesting that the forward returns. An .onnx file runs in ONNX
        Runtime, with the providers and threads of the target where that is one of its targets: a single output is a
        tensor; several are a dict if the file names them, as `sartor.export.export_onnx` does for a forward that
        returns a mapping, else a tuple.

        Raises:
            BadInput, CorruptFile: there is no such file, or it is damaged.
            MissingExtra: an .onnx file needs onnxruntime.
            Exception: whatever the network raises on these inputs, unchanged.
        """
        return self._forward(inputs)

    def prepared(
        self, example: Example | None = None, *, sizes: Mapping[str, int] | None = None, fast: bool = True
    ) -> Runnable:
        """Put it on its target, ready to be timed.

        Args:
            example: example inputs of any batch size, repeated or cut to `target.batch`. None, for an .onnx file only:
                random inputs of the shapes that the file declares.
            sizes: of random inputs: the lengths of free dimensions other than the batch, by their name in the file.
            fast: see `prepare`; of modules and .pt2 files.

        Raises:
            BadInput: no example where one is needed, or the target does not run such files.
            SartorError: the target does not work on this machine, or not with this artefact.
        """
        entry = find_target(self.target.name)
        if self.path is not None and self.path.suffix == ".onnx":
            if not runs_files(self.target):
                fine = ", ".join(e.name for e in TARGETS.entries() if "file" in e.traits)
                raise BadInput(
                    f"measure {self.path.name}: an ONNX file does not run on {self.target.name!r}; choose one of {fine}"
                )
            require(self.target.name)
            load: RunsFile = entry.traits["file"]
            inputs = (
                random_inputs(self.target, dict(sizes or {}), self.path)
                if example is None
                else given_inputs(self.target, example)
            )
            return load(self.path, self.target, inputs)
        if example is None:
            raise BadInput(f"measure {self.name}: expected example inputs; only an .onnx file declares its own")
        require(self.target.name)
        module = self.module if self.module is not None else _ExportedModule(self._program)
        return entry.value(module, example, self.target, fast=fast)

    @cached_property
    def _forward(self) -> Callable[[Example], Any]:
        """The function behind `run`; a file is read once."""
        if self.module is not None:
            return partial(_run_module, self.module)
        return self._onnx_forward() if self._existing_file().suffix == ".onnx" else partial(_run_program, self._program)

    def _onnx_forward(self) -> Callable[[Example], Any]:
        path = self._existing_file()
        target = self.target if self.target.name in PROVIDERS else Target("onnxruntime")
        session = open_session(path, target, name=self.name)
        inputs, outputs = ([v.name for v in values] for values in (session.get_inputs(), session.get_outputs()))

        def forward(example: Example) -> Any:
            arrays = session.run(None, feeds(inputs, example))
            tensors = [torch.from_numpy(a) for a in arrays]
            if len(tensors) == 1:
                return tensors[0]
            numbered = all(name == f"output_{i}" for i, name in enumerate(outputs))
            return tuple(tensors) if numbered else dict(zip(outputs, tensors))

        return forward

    @cached_property
    def _program(self) -> Callable[..., Any]:
        """The module inside a .pt2 file."""
        path = self._existing_file()
        with quiet():
            try:
                return torch.export.load(path).module()
            except Exception as e:
                raise CorruptFile(f"{self.name}: torch.export cannot read it; {first_line(e)}") from e

    def _existing_file(self) -> Path:
        assert self.path is not None
        if not self.path.is_file():
            raise BadInput(f"artefact: expected a file; got {str(self.path)!r}, which does not exist")
        return self.path

    def __repr__(self) -> str:
        return f"Artefact({self.name}, {self.target.name})"


class _ExportedModule(nn.Module):
    """A program of torch.export as targets take modules: it is in evaluation mode already and refuses `.eval()`."""

    def __init__(self, program: Any):
        super().__init__()
        self.program = program

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.program(*args, **kwargs)

    def train(self, mode: bool = True) -> _ExportedModule:
        return self


def _run_module(module: nn.Module, inputs: Example) -> Any:
    with borrowed(module), torch.no_grad():
        return call(module, to_device(inputs, device_of(module)))


def _run_program(program: Any, inputs: Example) -> Any:
    """Buffers that the forward writes to are restored, as `borrowed` restores those of a module."""
    before = [(buffer, buffer.clone()) for buffer in program.buffers()]
    with torch.no_grad():
        outputs = call(program, to_device(inputs, "cpu"))
        for buffer, value in before:
            if not torch.equal(buffer, value):
                buffer.copy_(value)
    return outputs


def prepare(model: nn.Module, example: Example, target: str | Target, *, fast: bool = True) -> Runnable:
    """Put a copy of the model on the target, in eval mode, with the example at the target's batch size.

    Args:
        model: not touched; parameters and modes stay as they are.
        example: example inputs of any batch size; repeated or cut to `target.batch`.
        target: a `Target` or its text, such as "onnxruntime-cpu:threads=1".
        fast: for targets that read ONNX: use the quick exporter where its graph agrees with eager; ONNX Runtime's
            optimised graph is the same. False: use the exporter that writes the files.

    Returns:
        A context manager: `with prepare(...) as runnable: runnable.run()`.

    Raises:
        UnknownName, BadInput: the target does not exist, or an option of it is wrong.
        SartorError: the target does not work on this machine, or not with this model.
    """
    return Artefact(innermost(model), target).prepared(example, fast=fast)


def prepare_file(
    path: str | Path, target: str | Target = "onnxruntime-cpu", *, sizes: Mapping[str, int] | None = None
) -> Runnable:
    """Put an .onnx file on a target that runs such files, with random inputs of the shapes that it declares.

    Args:
        path: the file, written by `sartor.export.export_onnx` or any other tool.
        target: its batch is the length of the free dimension 0 of every input. On ONNX Runtime the dtype is the file's
            own, except that int8 quantises the file.
        sizes: lengths of other free dimensions, by their name in the file.

    Raises:
        BadInput: no such file, a target that runs no files, or shapes that are not decided.
        CorruptFile: the file is no ONNX model.
        SartorError: the target does not work on this machine, or not with this file.
    """
    return Artefact(path, target).prepared(sizes=sizes)


def compare_artefacts(
    original: Artefact, fitted: Artefact, example: Example | None = None, effort: Effort = COMPARE_EFFORT
) -> Comparison:
    """Time two artefacts in turns, in several sessions; see `sartor.measure.compare_afresh`.

    Args:
        original: the reference.
        fitted: what is compared with it, on the same target.
        example: see `Artefact.prepared`.
        effort: at most so many sessions of this length.
    """
    return compare_afresh(lambda: original.prepared(example), lambda: fitted.prepared(example), effort)
