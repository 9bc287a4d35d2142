"""From a module to a runtime that reads ONNX: exported, quantised if asked, loaded, checked against the module."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from sartor.errors import BadInput, CorruptFile, MissingExtra, SartorError, TargetLost
from sartor.measure.agreement import relative_error, varied
from sartor.measure.onnx_graph import OnnxGraph, to_onnx, to_onnx_fast
from sartor.measure.runnable import Runnable
from sartor.measure.silence_output import first_line
from sartor.measure.static_int8 import quantised
from sartor.measure.torch_backends import placed
from sartor.structure.example import call, tensors
from sartor.types import Target

# A converted graph further from eager than this is another network. int8 takes what post-training quantisation does to
# a network that was never trained for it (0.02 to 0.13 on convolutional ones, 0.42 on a vision transformer, fresh
# weights); outputs that have nothing to do with the network's are about 1 away.
AGREES = {"float32": 1e-2, "float16": 5e-2, "bfloat16": 1e-1, "int8": 0.6}
CALIBRATION = 8  # varied copies of the example that ranges of activations are taken from


@dataclass(frozen=True)
class Loaded:
    """A graph that a runtime has read, with its inputs in place."""

    runnable: Runnable
    outputs: Callable[[], Sequence[Any] | None]  # of one inference, as arrays; None: the runtime does not show them


Load = Callable[[bytes | Path, Mapping[str, np.ndarray], str], Loaded]  # (model, inputs by name, its name in errors)


def through_onnx(
    model: nn.Module, example: Any, target: Target, load: Load, *, fast: bool = True, fixed: bool = False,
    graph_dtype: str = "float32",
) -> Runnable:  # fmt: skip
    """The module exported to ONNX and loaded; its outputs are those of eager up to AGREES.

    Args:
        model, example, target: as a `Backend` takes them.
        load: puts an ONNX model on the runtime: bytes, or a file.
        fast: the graph is made by the quick TorchScript exporter where its outputs agree with eager, else, and without
            `fast`, by the exporter that makes the files.
        fixed: the batch size is the target's for good, not free.
        graph_dtype: of the graph's tensors.

    Raises:
        SartorError: neither export can be loaded, or what runs does not compute what the model does.
    """
    start = time.perf_counter()
    net, inputs = placed(model, example, Target("eager", "cpu", target.threads, target.batch, graph_dtype))
    with torch.inference_mode():
        expected = call(net, inputs)

    def finish(graph: OnnxGraph) -> Runnable:
        name = f"the ONNX export of {type(model).__name__}"
        runnable = _agreeing(graph.data, inputs, expected, target, load, name)
        seconds = time.perf_counter() - start
        runnable.detail = {
            **runnable.detail, "exporter": graph.exporter, "export_s": graph.seconds, "prepare_s": seconds
        }  # fmt: skip
        return runnable

    if fast:
        try:
            return finish(to_onnx_fast(net, inputs, fixed=fixed))
        except TargetLost:
            raise
        except Exception:  # whatever it is, the other exporter decides
            pass
    return finish(to_onnx(net, inputs, needed_for=f"target {target.name!r}", fixed=fixed))


def _agreeing(data: bytes, inputs: Any, expected: Any, target: Target, load: Load, name: str) -> Runnable:
    names = [i.name for i in graph_inputs(data, name)]
    if target.dtype == "int8":
        data = quantised(data, [feeds(names, varied(inputs, seed)) for seed in range(CALIBRATION)], name)
    loaded = load(data, feeds(names, inputs), name)
    try:
        try:
            got = loaded.outputs()
        except SartorError:
            raise
        except Exception as e:
            raise SartorError(f"target {target.name!r}: {name} does not run; {first_line(e)}") from e
        check_agreement(expected, got, target, name)
    except BaseException:
        loaded.runnable.close()
        raise
    return loaded.runnable


def check_agreement(expected: Any, got: Any, target: Target, name: str) -> None:
    """Refuse outputs that are not the model's; None, of a runtime that does not show them, passes.

    Raises:
        SartorError: they are further away than AGREES allows at the target's dtype.
    """
    if got is None:
        return
    error = relative_error(expected, got)
    if not error <= AGREES[target.dtype]:
        raise SartorError(
            f"target {target.name!r}: {name} does not compute what the model does: "
            f"expected a relative error of at most {AGREES[target.dtype]:g}; got {error:.2g}"
        )


def feeds(names: Sequence[str], example: Any) -> dict[str, np.ndarray]:
    """Example inputs as the graph names them: by keyword where the names agree, else in order."""
    if isinstance(example, Mapping) and set(names) <= set(example):
        return {n: example[n].detach().cpu().numpy() for n in names}
    arrays = [t.detach().cpu().numpy() for t in tensors(example)]
    if len(arrays) != len(names):
        raise BadInput(f"ONNX model: expected {len(names)} input tensors ({', '.join(names)}); got {len(arrays)}")
    return dict(zip(names, arrays))


class Input(NamedTuple):
    """An input of a graph."""

    name: str
    dtype: np.dtype | None  # None: nothing that NumPy knows
    shape: tuple[int | str | None, ...]  # a name or None: free


def graph_inputs(data: bytes, name: str) -> list[Input]:
    """The inputs of a serialised ONNX model, without those that its weights are the default of.

    Raises:
        MissingExtra: onnx is not installed.
        CorruptFile: these bytes are no ONNX model.
    """
    try:
        import onnx
    except ImportError as e:
        raise MissingExtra("onnx", "onnx", name) from e
    try:
        graph = onnx.load_from_string(data).graph
    except Exception as e:
        raise CorruptFile(f"{name}: it is no ONNX model; {first_line(e)}") from e
    if not graph.node:
        raise CorruptFile(f"{name}: it is no ONNX model; its graph is empty")
    weights = {w.name for w in graph.initializer}
    found = []
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
        found.append(Input(i.name, dtype if dtype is not None and dtype.kind in "biuf" else None, shape))
    return found


def file_bytes(path: str | Path) -> bytes:
    """An ONNX file as it lies there.

    Raises:
        BadInput: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise BadInput(f"ONNX model: expected a file; got {str(path)!r}, which does not exist")
    return path.read_bytes()


def made(inputs: Iterable[Input], target: Target, sizes: Mapping[str, int], path: Path) -> dict[str, np.ndarray]:
    """Random inputs for a file, of its own shapes: the free dimension 0 is the target's batch.

    Raises:
        BadInput: an input is no tensor of numbers, its batch is another one, or a free dimension has no length.
    """
    rng = np.random.default_rng(0)
    return {i.name: _made(i, target, sizes, rng, f"{path}, input {i.name!r}") for i in inputs}


def _made(info: Input, target: Target, sizes: Mapping[str, int], rng: np.random.Generator, where: str) -> np.ndarray:
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
                f"{where}: dimension {k} ({length or 'unnamed'}) is free; say its length with sizes={{name: n}}"
            )
    if info.dtype.kind == "f":
        return rng.standard_normal(shape).astype(info.dtype)
    return np.ones(shape, info.dtype) if info.dtype.kind == "b" else np.zeros(shape, info.dtype)


def from_file(path: Path, target: Target, load: Load, sizes: Mapping[str, int]) -> Runnable:
    """An ONNX file loaded with random inputs; int8: quantised first, with varied copies of them."""
    start = time.perf_counter()
    feed = made(graph_inputs(file_bytes(path), str(path)), target, sizes, path)
    model: bytes | Path = path
    if target.dtype == "int8":
        model = quantised(path, [_varied(feed, seed) for seed in range(CALIBRATION)], str(path))
    runnable = load(model, feed, str(path)).runnable
    runnable.detail = {**runnable.detail, "file": str(path), "prepare_s": time.perf_counter() - start}
    return runnable


def _varied(feed: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    return {n: t.numpy() for n, t in varied({n: torch.from_numpy(a) for n, a in feed.items()}, seed).items()}
