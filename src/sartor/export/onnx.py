"""ONNX files, which are run and compared with eager before they are written."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sartor.export.files import atomic_write, check_writable
from sartor.export.verification import compare_batches, with_ending
from sartor.measure import Artefact
from sartor.measure.onnx_graph import to_onnx
from sartor.measure.program import on_cpu
from sartor.measure.targets import require
from sartor.structure.example import Example


def export_onnx(
    model: nn.Module, example: Example, path: str | Path, *, check: Sequence[int] = (1, 2, 5), tolerance: float = 1e-4
) -> dict[str, Any]:
    """Write a self-contained ONNX file with a free batch size, checked with ONNX Runtime against eager.

    Args:
        model: borrowed in eval mode; as before afterwards.
        example: example inputs.
        path: ends in .onnx; replaced in one step, and only by a file that passed the check.
        check: batch sizes at which the file must agree with eager. Where only one batch size can be exported, it is
            that of the example, and the file is checked at that one.
        tolerance: largest relative error allowed (see `sartor.measure.agreement.relative_error`).

    Returns:
        {"path", "bytes", "opset", "dynamic", "reason" (why the batch is fixed, else ""), "batches" (checked),
        "max_relative_error", "seconds"}.

    Raises:
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
        SartorError: the model cannot be exported, or the file disagrees with eager or cannot be written. No file is
            left behind.

    Source: torch.onnx.export(dynamo=True), https://docs.pytorch.org/docs/stable/onnx_export.html
    """
    start = time.perf_counter()
    path = with_ending(path, ".onnx")
    check_writable(path)
    require("onnxruntime-cpu")  # now, not after the conversion
    model, example = on_cpu(model, example)
    graph = to_onnx(model, example)
    with tempfile.TemporaryDirectory(prefix="sartor-") as folder:
        file = Path(folder) / "model.onnx"
        file.write_bytes(graph.data)
        exported = Artefact(file, "onnxruntime-cpu", name=f"the ONNX export of {type(model).__name__}")
        batches = check if graph.dynamic else None
        report = compare_batches(Artefact(model), exported, example, batches=batches, tolerance=tolerance)
    atomic_write(path, graph.data)
    return {
        "path": str(path),
        "bytes": len(graph.data),
        "opset": _opset(graph.data),
        "dynamic": graph.dynamic,
        "reason": graph.reason,
        **report,
        "seconds": time.perf_counter() - start,
    }


def _opset(data: bytes) -> int:
    import onnx

    model = onnx.load_model_from_string(data)
    return next(int(o.version) for o in model.opset_import if o.domain in ("", "ai.onnx"))
