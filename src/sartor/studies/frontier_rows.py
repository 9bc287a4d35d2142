"""A frontier as checked rows: what `frontier --json` prints and frontier.json holds."""

from __future__ import annotations

from typing import Any, Literal

from sartor.types.rows import Answer, Number, Row


class OriginalRow(Row):
    """The network that was cut; quality in percent, None where it was not judged."""

    macs: int
    params: int
    val: Number
    test: Number


class TimedRow(Row):
    """A cut network and the original, timed in turns."""

    ratio: float  # median of the pairwise ratios
    interval: tuple[float, float]  # 95 % confidence interval of the ratio
    original_ms: float  # median
    fitted_ms: float  # median
    noisy: str  # how the machine was disturbed; "": it was not


class FrontierPoint(Row):
    """One recipe at one share of the MACs; what was not judged, and all of a share that was not reached, is None."""

    recipe: str
    asked: float  # share of the MACs that may stay
    status: Literal["met", "not reached"]
    why: str | None  # why the share was not reached
    macs: float | None  # share of the original's
    params: float | None  # share of the original's
    val: Number  # percent
    test: Number  # percent
    gap: Number  # relative error of the outputs, see `sartor.repair.gap.output_gap`
    latency: TimedRow | None
    seconds: float


class Samples(Row):
    """How many samples were read."""

    samples: int  # for scores and repair
    held_out: int  # for the distance of the outputs


class Durations(Row):
    """Wall-clock time of the steps, in seconds."""

    understand: float
    score: dict[str, float]  # by recipe
    total: float


class FrontierTable(Answer):
    """Several recipes at several shares of the MACs."""

    model: str | None = None  # its spec, where the command line named it
    recipes: list[str]
    shares: list[float]
    target: str | None  # where networks were timed
    calibration: Samples
    metric: str
    original: OriginalRow
    points: list[FrontierPoint]
    seconds: Durations
    notes: list[str]
    environment: dict[str, Any]
    files: dict[str, str] | None = None  # kind -> path, where files were written
