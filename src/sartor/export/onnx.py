"""Exported = eager: ONNX files that were run before they are handed over."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from sartor.borrow import borrowed
from sartor.export.files import atomic_write, check_writable
from sartor.export.verification import compare_batches, eager_call, with_ending
from sartor.measure.onnx_graph import to_onnx
from sartor.measure.onnx_runtimes import feeds
from sartor.measure.ort_backend import open_session
from sartor.measure.program import on_cpu
from sartor.structure.example import Example
from sartor.types import Target


def export_onnx(
    model: nn.Module, example: Example, path: str | Path, *, check: Sequence[int] = (1, 2, 5), tolerance: float = 1e-4
) -> dict[str, Any]:
    """Write a self-contained ONNX file with a free batch size, checked with ONNX Runtime against eager.

    Args:
        model: borrowed in eval mode; as before afterwards.
        example: example inputs.
        path: ends in .onnx; replaced in one step, and only by a file that passed the check.
        check: batch sizes at which the file must agree with eager. When the model allows one batch size only, the
            file is fixed at that of the example and checked there.
        tolerance: largest relative error allowed (see `sartor.measure.agreement.relative_error`).

    Returns:
        {"path", "bytes", "opset", "dynamic", "reason" (why the batch is fixed, else ""), "batches" (checked),
        "max_relative_error", "seconds"}.

    Raises:
        MissingExtra: onnx, onnxscript or onnxruntime is not installed.
        SartorError: cannot be exported, disagrees with eager, or cannot be written. Nothing is left behind.

    Source: torch.onnx.export(dynamo=True), https://docs.pytorch.org/docs/stable/onnx_export.html
    """
    start = time.perf_counter()
    path = with_ending(path, ".onnx")
    check_writable(path)
    model, example = on_cpu(model, example)
    graph = to_onnx(model, example)
    session = open_session(graph.data, Target("onnxruntime"), name=f"the ONNX export of {type(model).__name__}")
    names = [i.name for i in session.get_inputs()]
    with borrowed(model):
        report = compare_batches(
            eager_call(model),
            lambda inputs: session.run(None, feeds(names, inputs)),
            example,
            batches=check if graph.dynamic else None,
            tolerance=tolerance,
            what=f"the ONNX export of {type(model).__name__}",
        )
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
