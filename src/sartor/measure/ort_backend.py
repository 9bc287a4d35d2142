"""Targets on ONNX Runtime."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sartor.errors import BadInput, CorruptFile, MissingExtra, SartorError
from sartor.measure.agreement import relative_error
from sartor.measure.environment import usable_cores
from sartor.measure.onnx_graph import OnnxGraph, to_onnx, to_onnx_fast
from sartor.measure.quiet import first_line
from sartor.measure.runnable import Runnable
from sartor.measure.torch_backends import placed
from sartor.structure.example import call, tensors
from sartor.types import Target

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
AGREES = {"float32": 1e-2, "float16": 5e-2}  # a converted graph further from eager than this is another network
_NUMPY = {
    "tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64, "tensor(int64)": np.int64,
    "tensor(int32)": np.int32, "tensor(int16)": np.int16, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}  # fmt: skip


def open_session(
    model: bytes | str | Path,
    target: Target,
    *,
    name: str = "the ONNX model",
    profile: Path | None = None,
    optimised: Path | None = None,
) -> Any:
    """An ONNX Runtime session with the settings every latency here is true for.

    Intra-op threads as the target says (0: every usable core), one inter-op thread, sequential execution, all graph
    optimisations. Worker threads stop spinning at the end of each inference: two sessions in one process would
    otherwise take the cores from each other (on two cores this made interleaved times up to twice as long and the
    ratio useless); one inference alone takes as long as without it.

    `profile` is where the runtime's profiler writes (a prefix of the file's name), `optimised` where the graph goes
    that it really runs.

    Raises:
        MissingExtra: onnxruntime is not installed.
        CorruptFile: the runtime cannot read the model.
        SartorError: the target's execution provider is missing, or cannot run the model.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingExtra("onnxruntime", "onnx", f"target {target.name!r}")
    import onnxruntime as ort

    provider = PROVIDERS[target.device]
    if provider not in ort.get_available_providers():
        raise SartorError(f"target {target.name!r}: {no_provider(target.device)}")
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
        session = ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=[provider])
    except Exception as e:
        kind = type(e).__name__
        if kind in ("InvalidProtobuf", "InvalidGraph", "InvalidArgument"):
            raise CorruptFile(f"{name}: ONNX Runtime cannot read it; {first_line(e)}") from e
        raise SartorError(f"{name}: ONNX Runtime cannot run it; {first_line(e)}") from e
    if provider not in session.get_providers():
        raise SartorError(
            f"target {target.name!r}: ONNX Runtime could not start {provider}; check CUDA and cuDNN versions"
        )
    return session


def feeds(session: Any, example: Any) -> dict[str, np.ndarray]:
    """Example inputs as the session names them: by keyword where the names agree, else in order."""
    names = [i.name for i in session.get_inputs()]
    if isinstance(example, Mapping) and set(names) <= set(example):
        return {n: example[n].detach().cpu().numpy() for n in names}
    arrays = [t.detach().cpu().numpy() for t in tensors(example)]
    if len(arrays) != len(names):
        raise BadInput(f"ONNX model: expected {len(names)} input tensors ({', '.join(names)}); got {len(arrays)}")
    return dict(zip(names, arrays))


def onnxruntime(model: nn.Module, example: Any, target: Target, *, fast: bool = True) -> Runnable:
    """The module exported to ONNX and run by ONNX Runtime; nothing is written to disk.

    With `fast` the graph is made by the quick TorchScript exporter where its outputs agree with eager, else, and
    without `fast`, by the exporter that makes the files.
    """
    if target.dtype not in AGREES:
        raise BadInput(f"target {target.name!r}: expected dtype float32 or float16; got {target.dtype!r}")
    start = time.perf_counter()
    net, inputs = placed(model, example, Target("eager", "cpu", target.threads, target.batch, target.dtype))
    with torch.inference_mode():
        expected = call(net, inputs)

    name = f"the ONNX export of {type(model).__name__}"
    found = _quick(net, inputs, expected, target, name) if fast else None
    if found is None:
        graph = to_onnx(net, inputs, needed_for=f"target {target.name!r}")
        found = (graph, *_agreeing(graph, inputs, expected, target, name))
    graph, session, feed = found
    detail = {"exporter": graph.exporter, "export_s": graph.seconds, "prepare_s": time.perf_counter() - start}
    return _runnable(session, feed, target, detail)


def _quick(
    net: nn.Module, inputs: Any, expected: Any, target: Target, name: str
) -> tuple[OnnxGraph, Any, dict[str, np.ndarray]] | None:
    try:
        graph = to_onnx_fast(net, inputs)
        return graph, *_agreeing(graph, inputs, expected, target, name)
    except Exception:  # whatever it is, the other exporter decides
        return None


def _agreeing(
    graph: OnnxGraph, inputs: Any, expected: Any, target: Target, name: str
) -> tuple[Any, dict[str, np.ndarray]]:
    """Session and feed of a graph that computes what the model does."""
    session = open_session(graph.data, target, name=name)
    feed = feeds(session, inputs)
    try:
        got = session.run(None, feed)
    except Exception as e:
        raise SartorError(f"target {target.name!r}: {name} does not run; {first_line(e)}") from e
    error = relative_error(expected, got)
    if not error <= AGREES[target.dtype]:
        raise SartorError(
            f"target {target.name!r}: {name} does not compute what the model does: "
            f"expected a relative error of at most {AGREES[target.dtype]:g}; got {error:.2g}"
        )
    return session, feed


def onnx_file(path: str | Path, target: Target, sizes: Mapping[str, int] | None = None) -> Runnable:
    """An ONNX file on disk, with random inputs made from its own shapes.

    Args:
        path: the file.
        target: an ONNX Runtime target; its batch is given to the free dimension 0 of every input.
        sizes: lengths of other free dimensions, by name.

    Raises:
        BadInput: no such file, a fixed batch other than the target's, or a free dimension without a length.
        CorruptFile: the file is no ONNX model.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"ONNX model: expected a file; got {str(path)!r}, which does not exist")
    start = time.perf_counter()
    session = open_session(path, target, name=str(path))
    rng = np.random.default_rng(0)
    feed = {i.name: _made(i, target, dict(sizes or {}), rng, path) for i in session.get_inputs()}
    return _runnable(session, feed, target, {"file": str(path), "prepare_s": time.perf_counter() - start})


def _made(info: Any, target: Target, sizes: dict[str, int], rng: np.random.Generator, path: Path) -> np.ndarray:
    where = f"{path}, input {info.name!r}"
    if info.type not in _NUMPY:
        raise BadInput(f"{where}: expected a tensor of numbers; got {info.type}")
    dtype = np.dtype(_NUMPY[info.type])
    shape: list[int] = []
    for k, length in enumerate(info.shape):
        if isinstance(length, int):
            if k == 0 and length != target.batch and len(info.shape) > 1:
                raise BadInput(
                    f"{where}: its batch is fixed at {length}, the target's is {target.batch}; "
                    f"measure on '{target.name}:batch={length}'"
                )
            shape.append(length)
        elif k == 0:
            shape.append(target.batch)
        elif length in sizes:
            shape.append(sizes[length])
        else:
            raise BadInput(
                f"{where}: dimension {k} ({length or 'unnamed'}) is free; say its length with sizes={{name: n}}"
            )
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return np.ones(shape, dtype) if dtype.kind == "b" else np.zeros(shape, dtype)


def _runnable(session: Any, feed: dict[str, np.ndarray], target: Target, detail: Mapping[str, Any]) -> Runnable:
    alive: dict[str, Any] = {"step": _bound(session, feed) if target.device == "cuda" else _plain(session, feed)}
    return Runnable(target, lambda: alive["step"](), _no_settings, alive.clear, detail)


def _plain(session: Any, feed: dict[str, np.ndarray]) -> Callable[[], Any]:
    names = [o.name for o in session.get_outputs()]
    run = session.run
    return lambda: run(names, feed)


def _bound(session: Any, feed: dict[str, np.ndarray]) -> Callable[[], Any]:
    """Inputs and outputs stay on the device, as the eager target on CUDA has them."""
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


@contextmanager
def _no_settings() -> Iterator[None]:
    yield


def no_provider(device: str) -> str | None:
    """Why ONNX Runtime cannot run on this device here; None when it can."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "needs the package 'onnxruntime': pip install 'sartor[onnx]'"
    import onnxruntime as ort

    if PROVIDERS[device] in ort.get_available_providers():
        return None
    return "this onnxruntime has no CUDA provider; install onnxruntime-gpu or choose onnxruntime-cpu"
