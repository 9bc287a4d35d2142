"""Reading the fields of a result, which may be missing, and formatting their values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sartor.units import show_bytes, show_count, show_percent, show_seconds

Result = Mapping[str, Any]
COUNTED = {"macs": "MACs", "params": "parameters", "bytes": "bytes", "memory": "peak memory"}
MOST_SAMPLES = 400  # points drawn of the samples of one latency


def number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    return (
        float(value)
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        else None
    )


def mapping(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """The mapping under a key; empty if it is missing."""
    inner = value.get(key)
    return inner if isinstance(inner, Mapping) else {}


def objects(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The list of objects under a key; empty if it is missing."""
    inner = value.get(key)
    return [v for v in inner if isinstance(v, Mapping)] if isinstance(inner, list | tuple) else []


def share_of(pair: Mapping[str, Any]) -> float | None:
    """fitted / original of one pair; None if a value is missing."""
    original, fitted = number(pair.get("original")), number(pair.get("fitted"))
    return fitted / original if original and fitted is not None else None


def percent_or_blank(value: Any) -> str:
    """A share as a percentage; "" for no number."""
    share = number(value)
    return "" if share is None else show_percent(share)


def plural(n: int, noun: str) -> str:
    """A count with its noun: '1 group', '2 groups'."""
    return f"{n} {noun}" + ("" if n == 1 else "s")


def thin(samples: Any) -> tuple[float, ...]:
    """The numbers among the samples, evenly thinned to at most MOST_SAMPLES."""
    values = [v for v in map(number, samples or ()) if v is not None]
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
