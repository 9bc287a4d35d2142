"""Files of torch.export, which load with torch alone, without the model's code."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sartor.errors import SartorError
from sartor.export.files import atomic_write, check_writable
from sartor.export.verification import compare_batches, with_ending
from sartor.measure import Artefact
from sartor.measure.program import Program, capture, on_cpu
from sartor.measure.silence_output import first_line, quiet
from sartor.structure.example import Example, with_batch


def export_pt2(
    model: nn.Module, example: Example, path: str | Path, *, check: Sequence[int] = (1, 2, 5), tolerance: float = 1e-4
) -> dict[str, Any]:
    """Write a .pt2 file with a free batch size where the model allows it, reloaded and checked against eager.

    Args:
        model: borrowed in eval mode; as before afterwards.
        example: example inputs.
        path: ends in .pt2; replaced in one step, and only by a file that passed the check.
        check: batch sizes at which the reloaded program must agree with eager; only that of the example if the batch is
            fixed.
        tolerance: largest relative error allowed.

    Returns:
        {"path", "bytes", "dynamic", "reason" (why the batch is fixed, else ""), "batches" (checked),
        "max_relative_error", "seconds"}.

    Raises:
        SartorError: the model cannot be exported, or the file disagrees with eager or cannot be written. No file is
            left behind.

    Source: torch.export, https://docs.pytorch.org/docs/stable/export.html
    """
    start = time.perf_counter()
    path = with_ending(path, ".pt2")
    check_writable(path)
    model, example = on_cpu(model, example)
    try:
        saved, program, report = _checked(model, example, capture(model, example), check, tolerance)
    except _Broken as e:
        fixed = capture(model, example, fixed=str(e))
        saved, program, report = _checked(model, example, fixed, check, tolerance)
    atomic_write(path, saved)
    return {
        "path": str(path),
        "bytes": len(saved),
        "dynamic": program.dynamic,
        "reason": program.reason,
        **report,
        "seconds": time.perf_counter() - start,
    }


class _Broken(Exception):
    """A batch size that torch.export takes to be free does not work."""


def _checked(
    model: nn.Module, example: Example, program: Program, check: Sequence[int], tolerance: float
) -> tuple[bytes, Program, dict[str, Any]]:
    """The bytes of a program that agrees with eager when it is loaded again, the program, and the report."""
    original = Artefact(model)
    with tempfile.TemporaryDirectory(prefix="sartor-") as folder:
        file = Path(folder) / "model.pt2"
        exported = Artefact(file, name=f"the .pt2 export of {type(model).__name__}")
        try:
            with quiet():
                torch.export.save(program.exported, file)
        except Exception as e:
            raise SartorError(f"export to .pt2: torch cannot save {type(model).__name__}: {first_line(e)}") from e
        if program.dynamic:
            try:
                with quiet():
                    exported.run(with_batch(example, program.batch))
            except NameError as e:  # a guard of the program refers to a name that does not exist in it
                raise _Broken(f"with a free batch the program does not run: {first_line(e)}") from e
            for n in check:
                try:
                    original.run(with_batch(example, n))
                except Exception as e:  # dimension 0 is not a batch, such as the nodes of a graph
                    raise _Broken(f"the model itself does not run at batch size {n}: {first_line(e)}") from e
        batches = check if program.dynamic else None
        report = compare_batches(original, exported, example, batches=batches, tolerance=tolerance)
        return file.read_bytes(), program, report
