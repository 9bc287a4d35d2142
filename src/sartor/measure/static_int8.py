"""Quantises an ONNX graph to int8 to measure its latency: static post-training quantisation by ONNX Runtime."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sartor.errors import BadInput, MissingExtra, SartorError
from sartor.measure.silence_output import first_line, quiet, silent_stdout


def quantised(model: bytes | Path, samples: Sequence[Mapping[str, np.ndarray]], name: str) -> bytes:
    """Insert quantisation and dequantisation (QDQ) around every operator with an int8 kernel; weights per channel.

    Weights use 7 bits, so that sums of two products fit into 16 bits on processors without VNNI; the kernels are the
    same.

    Args:
        model: a float32 ONNX model, serialised, or its file.
        samples: calibration inputs by name; the smallest and largest activations on them are the ranges.
        name: what errors call the model.

    Raises:
        MissingExtra: onnx or onnxruntime is not installed.
        BadInput: the model is quantised already.
        SartorError: ONNX Runtime cannot quantise it.

    Source: https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtra(package, "onnx", "dtype int8")
    import onnx

    proto = onnx.load_from_string(model) if isinstance(model, bytes) else onnx.load(str(model))
    if any(node.op_type == "QuantizeLinear" for node in proto.graph.node):
        raise BadInput(f"{name}: it is already quantised; measure it without dtype=int8")
    with tempfile.TemporaryDirectory(prefix="sartor-") as folder, quiet(), silent_stdout():
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = iter(samples)

            def get_next(self) -> dict[str, np.ndarray] | None:
                sample = next(self.left, None)
                return None if sample is None else dict(sample)

        path = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                proto, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        except Exception as e:
            raise SartorError(f"{name}: ONNX Runtime cannot quantise it to int8; {first_line(e)}") from e
        return path.read_bytes()
