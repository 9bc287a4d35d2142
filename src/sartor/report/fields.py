"""The values of a record as text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from sartor.run.record import Pair
from sartor.units import show_bytes, show_count, show_seconds

COUNTED = {
    "macs": "MACs", "params": "parameters", "weights": "live weights", "bytes": "bytes", "memory": "peak memory"
}  # fmt: skip
MOST_SAMPLES = 400  # points drawn of the samples of one latency


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def share_of(pair: Pair) -> float | None:
    """fitted / original; None if the original is zero."""
    return pair.fitted / pair.original if pair.original else None


def plural(n: int, noun: str) -> str:
    """A count with its noun: '1 group', '2 groups'."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def thin(samples: Iterable[float]) -> tuple[float, ...]:
    """The finite samples, evenly thinned to at most MOST_SAMPLES."""
    values = [v for v in map(number, samples) if v is not None]
    step = max(1, -(-len(values) // MOST_SAMPLES))
    return tuple(values[::step])


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested fields as (dotted name, text), without empty ones."""
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        elif value not in (None, "", [], ()):
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else _plain(value)
            rows.append((f"{prefix}{key}".replace("_", " "), text))
    return rows


def show_points(value: float) -> str:
    """A quality in points as text.

    >>> show_points(98.06), show_points(0.1234)
    ('98.1', '0.123')
    """
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def show_metric(metric: str, value: float | None) -> str:
    """A value of a budget metric as text; latency is given in seconds."""
    if value is None:
        return "–"
    formats = {"bytes": show_bytes, "memory": show_bytes, "latency": show_seconds, "drop": lambda v: f"{v:.2f}"}
    return formats.get(metric, show_count)(value)
