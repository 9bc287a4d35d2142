"""Puts modules and files on runtimes that read ONNX: export, optional quantisation, loading, check against eager."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sartor.errors import BadInput, CorruptFile, MissingExtra, SartorError
from sartor.measure.agreement import relative_error, varied
from sartor.measure.attempt import Attempt
from sartor.measure.onnx_graph import OnnxGraph, to_onnx, to_onnx_fast
from sartor.measure.runnable import Runnable
from sartor.measure.silence_output import first_line
from sartor.measure.static_int8 import quantised
from sartor.measure.torch_backends import placed
from sartor.structure.example import call, tensors, with_batch
from sartor.types import Target

# Largest relative error of a converted graph against eager. For int8 it allows for the error of post-training
# quantisation without training (0.02 to 0.13 on convolutional networks, 0.42 on a vision transformer, random weights);
# unrelated outputs have a relative error of about 1.
AGREES = {"float32": 1e-2, "float16": 5e-2, "bfloat16": 1e-1, "int8": 0.6}
CALIBRATION = 8  # varied copies of the example that give the ranges of activations for int8


@dataclass(frozen=True)
class Loaded:
    """A graph that a runtime has read, with its inputs in place."""

    runnable: Runnable
    outputs: Callable[[], Sequence[Any] | None]  # of one inference, as arrays; None: the runtime does not return them


Load = Callable[[bytes | Path, Mapping[str, np.ndarray], str], Loaded]  # (model, inputs by name, its name in errors)


@dataclass(frozen=True)
class OnnxRuntime:
    """A runtime that reads ONNX models, and what kind of graph it needs."""

    load: Load  # puts an ONNX model on the runtime: bytes, or a file
    fixed_batch: bool = False  # the graph has the batch size of the target only
    lowers_precision: bool = False  # it converts a float32 graph to the target's dtype itself

    def graph_dtype(self, target: Target) -> str:
        """The dtype of the graph that it reads for this target; int8 graphs are quantised from float32 ones."""
        return "float16" if target.dtype == "float16" and not self.lowers_precision else "float32"


def through_onnx(
    model: nn.Module, example: Any, target: Target, runtime: OnnxRuntime, *, fast: bool = True
) -> Runnable:
    """The module exported to ONNX and loaded; its outputs are those of eager up to AGREES.

    Args:
        model, example, target: as a `Backend` takes them.
        runtime: reads the ONNX model.
        fast: try the quick TorchScript exporter first, and use the exporter that writes the files only if that fails
            or does not agree with eager. False: use the latter at once.

    Raises:
        SartorError: neither export can be loaded, or the loaded model does not compute what the module does.
        TargetLost: the machine of the target cannot be reached.
    """
    start = time.perf_counter()
    dtype = runtime.graph_dtype(target)
    net, inputs = placed(model, example, Target("eager", "cpu", target.threads, target.batch, dtype))
    with torch.inference_mode():
        expected = call(net, inputs)

    def finish(graph: OnnxGraph, slow_because: str = "") -> Runnable:
        name = f"the ONNX export of {type(model).__name__}"
        runnable = _loaded(graph.data, (inputs, expected), target, runtime.load, name)
        seconds = time.perf_counter() - start
        runnable.detail = {
            **runnable.detail, "exporter": graph.exporter, "slow_because": slow_because, "export_s": graph.seconds,
            "prepare_s": seconds,
        }  # fmt: skip
        return runnable

    reason = ""
    if fast:
        with Attempt(Exception) as attempt:  # whatever the reason, the other exporter is tried; the reason is kept
            return finish(to_onnx_fast(net, inputs, fixed=runtime.fixed_batch))
        reason = first_line(attempt.error) if attempt.error else ""
    return finish(to_onnx(net, inputs, needed_for=f"target {target.name!r}", fixed=runtime.fixed_batch), reason)


def _loaded(data: bytes, sample: tuple[Any, Any], target: Target, load: Load, name: str) -> Runnable:
    """A graph on the runtime, checked on a sample (inputs, outputs of eager)."""
    inputs, expected = sample
    names = [i.name for i in graph_inputs(data, name)]
    if target.dtype == "int8":
        data = quantised(data, [feeds(names, varied(inputs, seed)) for seed in range(CALIBRATION)], name)
    loaded = load(data, feeds(names, inputs), name)
    try:
        try:
            outputs = loaded.outputs()
        except SartorError:
            raise
        except Exception as e:
            raise SartorError(f"target {target.name!r}: {name} does not run; {first_line(e)}") from e
        check_agreement(expected, outputs, target, name)
    except BaseException:
        loaded.runnable.close()
        raise
    return loaded.runnable


def check_agreement(expected: Any, actual: Any, target: Target, name: str) -> None:
    """Refuse outputs that are not the model's; None, of a runtime that does not return them, passes.

    Raises:
        SartorError: their relative error exceeds AGREES at the target's dtype.
    """
    if actual is None:
        return
    error = relative_error(expected, actual)
    if not error <= AGREES[target.dtype]:
        raise SartorError(
            f"target {target.name!r}: {name} does not compute what the model does: "
            f"expected a relative error of at most {AGREES[target.dtype]:g}; got {error:.2g}"
        )


def feeds(names: Sequence[str], example: Any) -> dict[str, np.ndarray]:
    """Example inputs by the names of the graph's inputs: by keyword if the names agree, else by position."""
    if isinstance(example, Mapping) and set(names) <= set(example):
        return {n: example[n].detach().cpu().numpy() for n in names}
    arrays = [t.detach().cpu().numpy() for t in tensors(example)]
    if len(arrays) != len(names):
        raise BadInput(f"ONNX model: expected {len(names)} input tensors ({', '.join(names)}); got {len(arrays)}")
    return dict(zip(names, arrays))


class Input(NamedTuple):
    """An input of a graph."""

    name: str
    dtype: np.dtype | None  # None: NumPy does not know it
    shape: tuple[int | str | None, ...]  # a free dimension has a name or None


Inputs = Callable[[Sequence[Input]], dict[str, np.ndarray]]  # declared inputs of a file -> arrays by name


def graph_inputs(data: bytes, name: str) -> list[Input]:
    """The inputs of a serialised ONNX model, without those that have a weight as their default.

    Raises:
        MissingExtra: onnx is not installed.
        CorruptFile: these bytes are not an ONNX model.
    """
    try:
        import onnx
    except ImportError as e:
        raise MissingExtra("onnx", "onnx", name) from e
    try:
        graph = onnx.load_from_string(data).graph
    except Exception as e:
        raise CorruptFile(f"{name}: it is not an ONNX model; {first_line(e)}") from e
    if not graph.node:
        raise CorruptFile(f"{name}: it is not an ONNX model; its graph is empty")
    weights = {w.name for w in graph.initializer}
    inputs = []
    for i in graph.input:
        if i.name in weights:
            continue
        kind = i.type.tensor_type
        try:
            dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        except (KeyError, TypeError):
            dtype = None
        shape = tuple(
            d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim
        )  # fmt: skip
        inputs.append(Input(i.name, dtype if dtype is not None and dtype.kind in "biuf" else None, shape))
    return inputs


def file_bytes(path: str | Path) -> bytes:
    """The content of an ONNX file.

    Raises:
        BadInput: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"ONNX model: expected a file; got {str(path)!r}, which does not exist")
    return path.read_bytes()


def random_inputs(target: Target, sizes: Mapping[str, int], path: Path) -> Inputs:
    """Random arrays of the shapes that a file declares; a free dimension 0 has the length of the target's batch.

    Args:
        target: its batch must equal every fixed dimension 0.
        sizes: lengths of the other free dimensions, by name.
        path: of the file, for errors.

    Returns:
        A function; it raises BadInput where an input is not a tensor of numbers, has another batch size, or has a free
        dimension without a length.
    """

    def arrays(inputs: Sequence[Input]) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(0)
        return {i.name: _random_array(i, target, sizes, rng, f"{path}, input {i.name!r}") for i in inputs}

    return arrays


def given_inputs(target: Target, example: Any) -> Inputs:
    """The example at the target's batch size; numbers with a fraction in the dtype that the file declares."""

    def arrays(inputs: Sequence[Input]) -> dict[str, np.ndarray]:
        feed = feeds([i.name for i in inputs], with_batch(example, target.batch))
        dtypes = {i.name: i.dtype for i in inputs}
        return {n: a.astype(d) if (d := dtypes[n]) is not None and d.kind == "f" else a for n, a in feed.items()}

    return arrays


def _random_array(
    info: Input, target: Target, sizes: Mapping[str, int], rng: np.random.Generator, where: str
) -> np.ndarray:
    if info.dtype is None:
        raise BadInput(f"{where}: expected a tensor of numbers that NumPy knows")
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
            shape.append(sizes[str(length)])
        else:
            raise BadInput(
                f"{where}: dimension {k} ({length or 'unnamed'}) is free; give its length with sizes={{name: n}}"
            )
    if info.dtype.kind == "f":
        return rng.standard_normal(shape).astype(info.dtype)
    return np.ones(shape, info.dtype) if info.dtype.kind == "b" else np.zeros(shape, info.dtype)


def from_file(path: Path, target: Target, load: Load, inputs: Inputs) -> Runnable:
    """An ONNX file loaded with its inputs; for int8 it is quantised first, with varied copies of the inputs."""
    start = time.perf_counter()
    feed = inputs(graph_inputs(file_bytes(path), str(path)))
    model: bytes | Path = path
    if target.dtype == "int8":
        model = quantised(path, [_varied(feed, seed) for seed in range(CALIBRATION)], str(path))
    runnable = load(model, feed, str(path)).runnable
    runnable.detail = {**runnable.detail, "file": str(path), "prepare_s": time.perf_counter() - start}
    return runnable


def _varied(feed: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    return {n: t.numpy() for n, t in varied({n: torch.from_numpy(a) for n, a in feed.items()}, seed).items()}
