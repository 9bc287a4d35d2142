"""A model or a file put on a target, ready for the stopwatch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from sartor.errors import BadInput
from sartor.measure.runnable import Runnable
from sartor.measure.targets import TARGETS, RunsFile, find_target, parse_target, require
from sartor.structure.example import Example
from sartor.types import Target


def prepare(model: nn.Module, example: Example, target: str | Target, *, fast: bool = True) -> Runnable:
    """Put a copy of the model on the target, in eval mode, with the example at the target's batch size.

    Args:
        model: not touched; parameters and modes stay as they are.
        example: example inputs of any batch size; repeated or cut to `target.batch`.
        target: a `Target` or its text, such as "onnxruntime-cpu:threads=1".
        fast: targets that read ONNX only: take the quick exporter where its result agrees with eager; ONNX Runtime's
            optimised graph is the same. False: the exporter that makes the files.

    Returns:
        A context manager: `with prepare(...) as runnable: runnable.run()`.

    Raises:
        UnknownName, BadInput: the target does not exist, or an option of it is wrong.
        SartorError: the target does not work on this machine, or not with this model.
    """
    target = parse_target(target)
    require(target.name)
    return find_target(target.name).value(model, example, target, fast=fast)


def prepare_file(
    path: str | Path, target: str | Target = "onnxruntime-cpu", *, sizes: Mapping[str, int] | None = None
) -> Runnable:
    """Put an .onnx file on a target that runs such files, with random inputs made from its own shapes.

    Args:
        path: the file, as `sartor.export.export_onnx` writes it or any other.
        target: its batch is given to the free dimension 0 of every input; on ONNX Runtime the dtype is the file's own,
            but for int8, which quantises it.
        sizes: lengths of other free dimensions, by their name in the file.

    Raises:
        BadInput: no such file, a target that runs no files, or shapes that are not decided.
        CorruptFile: the file is no ONNX model.
        SartorError: the target does not work on this machine, or not with this file.
    """
    target, path = parse_target(target), Path(path)
    if path.suffix != ".onnx":
        raise BadInput(f"measure: expected an .onnx file; got {str(path)!r}")
    if not runs_files(target):
        fine = ", ".join(e.name for e in TARGETS.entries() if "file" in e.traits)
        raise BadInput(f"measure {path.name}: an ONNX file does not run on {target.name!r}; choose one of {fine}")
    require(target.name)
    load: RunsFile = find_target(target.name).traits["file"]
    return load(path, target, dict(sizes or {}))


def runs_files(target: Target) -> bool:
    """Whether ONNX files can be put on this target."""
    return "file" in find_target(target.name).traits
