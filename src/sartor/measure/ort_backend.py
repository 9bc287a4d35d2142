"""Targets on ONNX Runtime: its CPU, CUDA and TensorRT execution providers."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from sartor.errors import CorruptFile, MissingExtra, SartorError
from sartor.measure.environment import usable_cores
from sartor.measure.onnx_runtimes import Inputs, Loaded, OnnxRuntime, from_file, through_onnx
from sartor.measure.runnable import Runnable
from sartor.measure.silence_output import first_line
from sartor.types import Target


@dataclass(frozen=True)
class Execution:
    """How ONNX Runtime runs one target."""

    providers: tuple[str, ...]  # in order: the next one runs the operators that the first does not take
    libraries: str = ""  # what the first provider loads when it starts
    install: str = ""  # what to do if this onnxruntime was built without the first provider


PROVIDERS = {
    "onnxruntime-cpu": Execution(
        ("CPUExecutionProvider",), install="this onnxruntime has no CPU provider; install onnxruntime again"
    ),
    "onnxruntime-cuda": Execution(
        ("CUDAExecutionProvider",),
        "CUDA and cuDNN",
        "this onnxruntime has no CUDA provider; install onnxruntime-gpu or choose onnxruntime-cpu",
    ),
    "tensorrt-cuda": Execution(
        ("TensorrtExecutionProvider", "CUDAExecutionProvider"),
        "CUDA, cuDNN and TensorRT",
        "this onnxruntime has no TensorRT provider; install onnxruntime-gpu and tensorrt, or choose another target",
    ),
}


def providers(target: Target) -> list[tuple[str, dict[str, str]]]:
    """Execution providers with their options, as a session takes them."""
    options = {"TensorrtExecutionProvider": {"trt_fp16_enable": str(int(target.dtype == "float16"))}}
    return [(p, options.get(p, {})) for p in PROVIDERS[target.name].providers]


def open_session(
    model: bytes | str | Path,
    target: Target,
    *,
    name: str = "the ONNX model",
    profile: Path | None = None,
    optimised: Path | None = None,
) -> Any:
    """An ONNX Runtime session with the settings under which every latency is measured.

    Intra-op threads as the target says (0: every usable core), one inter-op thread, sequential execution, all graph
    optimisations. Worker threads stop spinning at the end of each inference. Otherwise two sessions in one process
    compete for the cores: on two cores, inferences in turns took up to twice as long and their ratio was useless. The
    time of one session alone is the same with and without it.

    Args:
        model: serialised, or its file.
        target: one of PROVIDERS.
        name: what errors call the model.
        profile: where the runtime's profiler writes, as the beginning of a file name; None: no profiler.
        optimised: where the optimised graph, the one that runs, is written; None: nowhere.

    Raises:
        MissingExtra: onnxruntime is not installed.
        CorruptFile: the runtime cannot read the model.
        SartorError: the target's execution provider is missing, or cannot run the model.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtra("onnxruntime", "onnx", f"target {target.name!r}")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # telemetry would leave files in the working directory
    import onnxruntime as ort

    execution = PROVIDERS[target.name]
    first = execution.providers[0]
    if why := no_provider(target.name):
        raise SartorError(f"target {target.name!r}: {why}")
    options = ort.SessionOptions()
    options.intra_op_num_threads = target.threads or usable_cores()
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    try:
        given = model if isinstance(model, bytes) else str(model)
        session = ort.InferenceSession(given, options, providers=providers(target))
    except Exception as e:
        kind = type(e).__name__
        if kind in ("InvalidProtobuf", "InvalidGraph", "InvalidArgument"):
            raise CorruptFile(f"{name}: ONNX Runtime cannot read it; {first_line(e)}") from e
        raise SartorError(f"{name}: ONNX Runtime cannot run it; {first_line(e)}") from e
    if session.get_providers()[0] != first:
        hint = f"; check versions of {execution.libraries}" if execution.libraries else ""
        raise SartorError(f"target {target.name!r}: ONNX Runtime could not start {first}{hint}")
    return session


def onnxruntime(model: nn.Module, example: Any, target: Target, *, fast: bool = True) -> Runnable:
    """The module exported to ONNX and run by ONNX Runtime; only quantisation writes to disk meanwhile."""
    return through_onnx(model, example, target, OnnxRuntime(partial(_load, target)), fast=fast)


def onnx_file(path: Path, target: Target, inputs: Inputs) -> Runnable:
    """An ONNX file run by ONNX Runtime; see `sartor.measure.prepare_file`."""
    return from_file(path, target, partial(_load, target), inputs)


def _load(target: Target, model: bytes | Path, feed: Mapping[str, np.ndarray], name: str) -> Loaded:
    session = open_session(model, target, name=name)
    return Loaded(_runnable(session, feed, target), lambda: session.run(None, feed))


def _runnable(session: Any, feed: Mapping[str, np.ndarray], target: Target) -> Runnable:
    alive: dict[str, Any] = {"step": _bound(session, feed) if target.device == "cuda" else _plain(session, feed)}
    return Runnable(target, lambda: alive["step"](), release=alive.clear, own=target.device == "cpu")


def _plain(session: Any, feed: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    names = [o.name for o in session.get_outputs()]
    run = session.run
    return lambda: run(names, feed)


def _bound(session: Any, feed: Mapping[str, np.ndarray]) -> Callable[[], Any]:
    """Inputs and outputs stay on the device, as on the eager target on CUDA."""
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_cpu_input(name, array)
    for o in session.get_outputs():
        binding.bind_output(o.name, "cuda")

    def run() -> Any:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return binding

    return run


def runtime(facts: Mapping[str, Any]) -> str:
    """Name and version as the module states them: the package onnxruntime-gpu holds the same runtime."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime"
    import onnxruntime as ort

    return f"onnxruntime {ort.__version__}"


def no_provider(name: str) -> str | None:
    """Why ONNX Runtime cannot run on this target here; None when it can."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "needs the package 'onnxruntime': pip install 'sartor[onnx]'"
    import onnxruntime as ort

    execution = PROVIDERS[name]
    return None if execution.providers[0] in ort.get_available_providers() else execution.install
