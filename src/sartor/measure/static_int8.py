"""An ONNX graph in int8, for its latency: static post-training quantisation by ONNX Runtime."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sartor.errors import BadInput, MissingExtra, SartorError
from sartor.measure.silence_output import first_line, quiet, silent_stdout


def quantised(model: bytes | Path, samples: Sequence[Mapping[str, np.ndarray]], name: str) -> bytes:
    """Quantise and dequantise around every operator that has an int8 kernel (QDQ), weights per channel.

    Weights take 7 bits, so that sums of two products fit 16 bits on processors without VNNI; the kernels are the same.

    Args:
        model: a float32 ONNX model, serialised, or its file.
        samples: inputs by name; their least and largest activations are the ranges.
        name: what to call it in errors.

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
        raise BadInput(f"{name}: it is quantised already; measure it as it is, without dtype=int8")
    with tempfile.TemporaryDirectory(prefix="sartor-") as folder, quiet(), silent_stdout():
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.left = iter(samples)

            def get_next(self) -> dict[str, np.ndarray] | None:
                following = next(self.left, None)
                return None if following is None else dict(following)

        path = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                proto, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
        except Exception as e:
            raise SartorError(f"{name}: ONNX Runtime cannot quantise it to int8; {first_line(e)}") from e
        return path.read_bytes()
