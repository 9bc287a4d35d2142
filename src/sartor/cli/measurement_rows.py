"""What `measure --json` prints, as checked rows: one network alone, or two networks timed in turns."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from sartor.run.record import LatencyRow, Pair
from sartor.types.rows import Answer, Row


class AloneRow(Row):
    """One network timed on one target."""

    target: str
    median_ms: float
    iqr_ms: float  # interquartile range
    samples: int  # single inferences
    warmup: int  # inferences before the first sample
    noisy: str  # how the machine was disturbed; "": it was not


class EnergyRow(Row):
    """Energy of one network on one target."""

    target: str
    meter: str
    idle_w: float  # power of the machine before the measurement, in watts
    joules: float  # per inference, idle power included


class EnergyPair(Row):
    """Energy of two networks that were measured in turns on one target."""

    target: str
    meter: str
    idle_w: float
    original_j: float
    fitted_j: float
    ratio: float


class Measurement(Answer):
    """One network alone."""

    model: str
    against: None
    counted: dict[str, int] | None  # None: an ONNX file, whose costs are not counted
    latency: list[AloneRow]
    environment: dict[str, Any]
    energy: list[EnergyRow] | None = None


class PairMeasurement(Answer):
    """A network and the one it is compared with."""

    model: str
    against: str
    counted: dict[str, Pair] | None
    latency: list[LatencyRow]
    environment: dict[str, Any]
    energy: list[EnergyPair] | None = None


def measurement_schema() -> dict[str, Any]:
    """The JSON schema of either."""
    return TypeAdapter(Measurement | PairMeasurement).json_schema(mode="serialization")
