"""Targets on OpenVINO."""

from __future__ import annotations

import io
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sartor.errors import CorruptFile, SartorError
from sartor.measure.environment import usable_cores
from sartor.measure.onnx_runtimes import Inputs, Loaded, OnnxRuntime, from_file, through_onnx
from sartor.measure.runnable import Runnable
from sartor.measure.silence_output import first_line
from sartor.types import Target

PRECISION = {
    "float32": "f32",
    "float16": "f16",
    "bfloat16": "bf16",
    "int8": "f32",
}  # int8: of the operators that stay float
_OFFERS = {"f16": "FP16", "bf16": "BF16"}  # the capability that a device reports if it has kernels of a precision


def openvino(model: nn.Module, example: Any, target: Target, *, fast: bool = True) -> Runnable:
    """The module exported to ONNX at the target's batch and compiled by OpenVINO, which lowers the precision itself."""
    check_precision(target)
    runtime = OnnxRuntime(partial(_load, target), fixed_batch=True, lowers_precision=True)
    return through_onnx(model, example, target, runtime, fast=fast)


def openvino_file(path: Path, target: Target, inputs: Inputs) -> Runnable:
    """An ONNX file compiled by OpenVINO; see `sartor.measure.prepare_file`."""
    check_precision(target)
    return from_file(path, target, partial(_load, target), inputs)


def settings(target: Target) -> dict[str, Any]:
    """The settings under which every latency is measured: one inference at a time, on the threads of the target.

    0 threads: every usable core, of which OpenVINO may leave out hyper-threads. OpenVINO does not pin threads to cores,
    so that an affinity set from outside holds.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": target.threads or usable_cores(),
        "ENABLE_HYPER_THREADING": bool(target.threads),
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": PRECISION[target.dtype],
    }


def check_precision(target: Target) -> None:
    """Refuse a dtype that the processor has no kernels for: OpenVINO would silently compute in another.

    Raises:
        SartorError: the message names the dtypes that it has.
    """
    capability = _OFFERS.get(PRECISION[target.dtype])
    offered = _core().get_property(target.device.upper(), "OPTIMIZATION_CAPABILITIES")
    if capability is not None and capability not in offered:
        fine = [d for d, p in PRECISION.items() if _OFFERS.get(p, "FP32") in offered]
        raise SartorError(
            f"target {target.name!r}: OpenVINO has no {target.dtype} on this processor; it has {', '.join(fine)}"
        )


@lru_cache(maxsize=1)
def _core() -> Any:
    import openvino as ov

    return ov.Core()


def _load(target: Target, model: bytes | Path, feed: Mapping[str, np.ndarray], name: str) -> Loaded:
    import openvino as ov

    try:
        graph = _core().read_model(io.BytesIO(model) if isinstance(model, bytes) else str(model))
    except Exception as e:
        raise CorruptFile(f"{name}: OpenVINO cannot read it; {_reason(e)}") from e
    try:
        graph.reshape({n: ov.PartialShape(list(a.shape)) for n, a in feed.items()})
        compiled = _core().compile_model(graph, target.device.upper(), settings(target))
        request = compiled.create_infer_request()
        inputs = {n: ov.Tensor(np.ascontiguousarray(a), shared_memory=True) for n, a in feed.items()}
        for n, tensor in inputs.items():
            request.set_tensor(n, tensor)
    except Exception as e:
        raise SartorError(f"{name}: OpenVINO cannot run it; {_reason(e)}") from e
    used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    if used != PRECISION[target.dtype]:
        raise SartorError(f"target {target.name!r}: expected OpenVINO to compute in {target.dtype}; it takes {used}")
    threads = compiled.get_property("INFERENCE_NUM_THREADS")
    if target.threads and threads != target.threads:
        raise SartorError(
            f"target {target.name!r}: expected {target.threads} threads; OpenVINO takes {threads} here, where this "
            f"process may use {usable_cores()} cores; choose threads={threads}, or leave threads out"
        )
    count = len(compiled.outputs)
    alive: dict[str, Any] = {"infer": request.infer, "inputs": inputs}  # the request does not keep its inputs alive

    def results() -> list[np.ndarray]:
        return [request.get_output_tensor(i).data for i in range(count)]

    def step() -> list[np.ndarray]:
        alive["infer"](share_outputs=True)
        return results()

    return Loaded(Runnable(target, step, release=alive.clear, own=target.device == "cpu"), step)


def _reason(error: Exception) -> str:
    """The first line of an exception that is not a place in OpenVINO's source."""
    lines = [x.strip() for x in str(error).splitlines() if x.strip()]
    telling = [x for x in lines if not x.startswith(("Exception from", "Check "))]
    return first_line(type(error)(telling[0] if telling else (lines or [""])[0]))
