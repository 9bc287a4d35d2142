"""Converts a module to an ONNX model in memory, by two exporters of torch."""

from __future__ import annotations

import importlib.util
import io
import re
import time
from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from sartor.borrow import borrowed
from sartor.errors import BadInput, MissingExtra, SartorError
from sartor.measure.program import capture, on_cpu, state_bytes
from sartor.measure.silence_output import first_line, quiet, silent_stdout
from sartor.structure.example import as_args, batch_of, call, tensors

LARGEST_BYTES = 2**31 - 2**20  # a protobuf message ends at 2 GiB; a margin for the graph itself


@dataclass(frozen=True)
class OnnxGraph:
    """A self-contained ONNX model, serialised."""

    data: bytes
    dynamic: bool  # the batch size is free
    exporter: str  # "dynamo" or "torchscript"
    seconds: float
    reason: str = ""  # why the batch size is not free


def to_onnx(model: nn.Module, example: Any, *, needed_for: str = "export to ONNX", fixed: bool = False) -> OnnxGraph:
    """Convert through torch.export, with the exporter's optimisations.

    Args:
        model: any module; borrowed, in eval mode meanwhile.
        example: example inputs. Batch dimensions become free where the model allows it.
        needed_for: what needs the packages, for the message when one is missing.
        fixed: only the batch size of the example works.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        SartorError: the model cannot be captured or translated; the cause is chained.
        BadInput: the weights do not fit into one ONNX file.

    Source: torch.onnx.export(dynamo=True), https://docs.pytorch.org/docs/stable/onnx_export.html
    """
    _need("onnx", needed_for)
    _need("onnxscript", needed_for)
    _check_size(model)
    start = time.perf_counter()
    model, example = on_cpu(model, example)
    program = capture(model, example, fixed="it was requested" if fixed else "")
    with borrowed(model), torch.no_grad():
        names = _output_names(call(model, example), taken=_input_names(program.exported))
        with quiet():
            try:
                onnx_program: Any = torch.onnx.export(program.exported, dynamo=True, verbose=False, output_names=names)
                proto = onnx_program.model_proto
                _name_batch(proto)
                data = proto.SerializeToString()
            except Exception as e:
                raise SartorError(
                    f"export to ONNX: torch.onnx cannot translate {type(model).__name__}: {first_line(e)}"
                ) from e
    return OnnxGraph(data, program.dynamic, "dynamo", time.perf_counter() - start, program.reason)


def to_onnx_fast(model: nn.Module, example: Any, *, fixed: bool = False) -> OnnxGraph:
    """Convert by tracing with the TorchScript exporter: ten times as fast, and for timing only.

    After ONNX Runtime has optimised it, the graph equals that of `to_onnx`, except that a reshape or a mean may be
    expressed by other operators. Control flow is fixed as the example takes it. Failures raise whatever torch raises;
    callers fall back to `to_onnx`.
    """
    start = time.perf_counter()
    model, example = on_cpu(model, example)
    args, kwargs = as_args(example)
    names = [
        *(f"input_{i}" for i, _ in enumerate(tensors(args))),
        *(k for k, v in kwargs.items() if isinstance(v, Tensor)),
    ]
    batch = batch_of(example)
    free = {n: {0: "batch"} for n, t in zip(names, tensors(example)) if t.dim() and t.shape[0] == batch and not fixed}
    stream = io.BytesIO()
    with borrowed(model), torch.no_grad(), quiet(), silent_stdout():
        torch.onnx.export(
            model,
            args,
            stream,  # type: ignore[arg-type]  # this exporter takes a buffer
            kwargs=kwargs or None,
            dynamo=False,
            input_names=names,
            dynamic_axes=free,
            verbose=False,
        )
    return OnnxGraph(stream.getvalue(), not fixed, "torchscript", time.perf_counter() - start)


def _need(package: str, needed_for: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtra(package, "onnx", needed_for)


def _check_size(model: nn.Module) -> None:
    size = state_bytes(model)
    if size > LARGEST_BYTES:
        raise BadInput(
            f"export to ONNX: expected at most 2 GB of weights, the limit of one ONNX file; got {size / 1e9:.1f} GB; "
            "convert the model to half precision, or export a .pt2 file instead"
        )


def _input_names(exported: torch.export.ExportedProgram) -> set[str]:
    """Names that values of the ONNX graph already have: inputs, parameters and buffers."""
    return {spec.arg.name for spec in exported.graph_signature.input_specs if hasattr(spec.arg, "name")} | set(
        exported.state_dict
    )


def _output_names(output: Any, taken: Set[str] = frozenset()) -> list[str]:
    """One name a tensor: its key in a flat mapping, else "output" or "output_0", "output_1" ...

    A name that an input has gets the ending "_out": names in an ONNX graph are unique.

    >>> _output_names({"sample": torch.ones(1)}, taken={"sample"}), _output_names((torch.ones(1), torch.ones(1)))
    (['sample_out'], ['output_0', 'output_1'])
    """
    if isinstance(output, Mapping) and all(isinstance(v, Tensor) for v in output.values()):
        names = [str(k) for k in output]
    else:
        count = sum(1 for _ in tensors(output))
        names = ["output"] if count == 1 else [f"output_{i}" for i in range(count)]
    free: list[str] = []
    for name in names:
        while name in taken or name in free:
            name += "_out"
        free.append(name)
    return free


def _name_batch(proto: Any) -> None:
    """Rename the free batch dimension from torch's symbol (such as "s77") to "batch"."""
    symbols = {i.type.tensor_type.shape.dim[0].dim_param for i in proto.graph.input if i.type.tensor_type.shape.dim}
    symbols.discard("")
    if len(symbols) != 1:
        return
    word = re.compile(rf"\b{re.escape(symbols.pop())}\b")
    for info in chain(proto.graph.input, proto.graph.output, proto.graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = word.sub("batch", dim.dim_param)
