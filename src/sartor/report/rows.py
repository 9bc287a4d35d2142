"""A record as rows that are ready to be shown; templates and charts compute nothing themselves.

A table of the record that is empty, such as the latencies of a run that timed nothing, gives no rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sartor.report.fields import COUNTED, flat, number, share_of, show_metric, show_points, thin
from sartor.run import record
from sartor.run.record import Pair, Record
from sartor.types import LimitStatus
from sartor.units import show_percent, show_seconds

COLOURS = 6  # for the parts of a bar
STEPS = {"original": "original", "after_cut": "after the cut", "after_repair": "after repair", "final": "final"}


@dataclass(frozen=True)
class BudgetRow:
    """One limit of the budget and the value reached."""

    clause: str
    original: str
    fitted: str
    share: str
    status: LimitStatus

    @property
    def met(self) -> bool:
        """Whether the limit holds as far as the measurement can say."""
        return self.status in record.HOLDS


@dataclass(frozen=True)
class ChangeRow:
    """One cost of the original and of the fitted network."""

    label: str
    original: str
    fitted: str
    share: float | None  # fitted / original
    text: str

    @property
    def bar(self) -> str:
        """Length of the bar, in [0, 100]."""
        return f"{100 * min(max(self.share or 0.0, 0.0), 1.0):.1f}"


@dataclass(frozen=True)
class LatencyRow:
    """Latency on one target; samples are in milliseconds, evenly thinned to at most fields.MOST_SAMPLES."""

    target: str
    original: str
    fitted: str
    ratio: float
    text: str
    interval: str
    original_ms: float
    fitted_ms: float
    original_samples: tuple[float, ...]
    fitted_samples: tuple[float, ...]


@dataclass(frozen=True)
class QualityRow:
    """Quality after one step of the run, in points of the metric."""

    step: str
    value: float
    text: str
    change: str


@dataclass(frozen=True)
class KeptRow:
    """One group, in network order."""

    name: str
    layer: str
    kind: str
    units: int
    kept: int
    share: float
    text: str
    mixes: str
    members: tuple[str, ...]
    macs_share: str
    params_share: str


@dataclass(frozen=True)
class FrozenRow:
    """Axes frozen for one reason."""

    reason: str
    axes: tuple[str, ...]


@dataclass(frozen=True)
class EpochRow:
    """One epoch of training."""

    epoch: int
    loss: float | None
    val: float | None
    lr: float | None
    seconds: float | None

    @property
    def loss_text(self) -> str:
        """Training loss as text."""
        return "" if self.loss is None else f"{self.loss:.4f}"

    @property
    def val_text(self) -> str:
        """Validation quality as text."""
        return "" if self.val is None else f"{self.val:.2f}"

    @property
    def lr_text(self) -> str:
        """Learning rate as text."""
        return "" if self.lr is None else f"{self.lr:.3g}"

    @property
    def seconds_text(self) -> str:
        """Duration as text."""
        return "" if self.seconds is None else show_seconds(self.seconds)


@dataclass(frozen=True)
class TrailRow:
    """One round of the latency search: share of the MACs kept, and measured latency ratio."""

    round: int
    macs_share: float
    ratio: float


@dataclass(frozen=True)
class TimeRow:
    """Wall-clock time of one step."""

    step: str
    seconds: float
    share: float
    text: str
    colour: int  # in [0, COLOURS)


def budget_rows(result: Record) -> list[BudgetRow]:
    """The limits of the budget and the values reached."""
    timed = {row.target: row.ratio for row in result.latency}  # median of pairwise ratios, not the ratio of two medians
    rows = []
    for b in result.budget:
        share = b.value / b.original if b.original and b.value is not None and b.metric != "drop" else None
        share = timed.get(str(b.target), share) if b.metric == "latency" else share
        rows.append(
            BudgetRow(
                clause=_clause(b),
                original=show_metric(b.metric, b.original),
                fitted=show_metric(b.metric, b.value),
                share="" if share is None else show_percent(share),
                status=b.status,
            )
        )
    return rows


def counted_rows(counted: Mapping[str, Pair]) -> list[ChangeRow]:
    """The counted costs of both networks, by metric."""
    rows = []
    for metric, label in COUNTED.items():
        if metric in counted:
            pair = counted[metric]
            share = share_of(pair)
            text = "" if share is None else show_percent(share)
            original, fitted = show_metric(metric, pair.original), show_metric(metric, pair.fitted)
            rows.append(ChangeRow(label, original, fitted, share, text))
    return rows


def latency_rows(latency: Iterable[record.LatencyRow]) -> list[LatencyRow]:
    """Latency on every target."""
    return [
        LatencyRow(
            target=row.target,
            original=show_seconds(row.original_ms / 1e3),
            fitted=show_seconds(row.fitted_ms / 1e3),
            ratio=row.ratio,
            text=f"{row.ratio:.3f}",
            interval=f"{row.interval[0]:.3f} to {row.interval[1]:.3f}",
            original_ms=row.original_ms,
            fitted_ms=row.fitted_ms,
            original_samples=thin(row.samples.original_ms),
            fitted_samples=thin(row.samples.fitted_ms),
        )
        for row in latency
    ]


def quality_rows(quality: record.QualityRow) -> list[QualityRow]:
    """Quality after each step of the run; steps without a value are left out."""
    rows = []
    for key, step in STEPS.items():
        value: float | None = getattr(quality, key)
        if value is not None:
            before = quality.original
            change = "" if before is None or key == "original" else f"{value - before:+.2f}"
            rows.append(QualityRow(step, value, show_points(value), change))
    return rows


def quality_floor(result: Record) -> float | None:
    """The least quality that the budget allows; None if it does not limit the drop."""
    before = result.quality.original
    drop = re.search(r"drop\s*(?:<=|≤)\s*([0-9.]+)", result.asked.budget)
    return before - float(drop[1]) if drop and before is not None else None


def kept_rows(result: Record) -> list[KeptRow]:
    """Groups in network order, with the units kept of each."""
    return [
        KeptRow(
            name=g.name,
            layer=short_name(g.name),
            kind=g.kind,
            units=g.units,
            kept=g.kept,
            share=g.kept / g.units,
            text=f"{g.kept} of {g.units}",
            mixes=g.mixes or "",
            members=tuple(g.members),
            macs_share=show_percent(g.macs_share),
            params_share=show_percent(g.params_share),
        )
        for g in result.groups if g.units
    ]  # fmt: skip


def frozen_rows(frozen: Iterable[tuple[str, str]]) -> list[FrozenRow]:
    """Frozen axes, given as (axis, reason), by reason; the most frequent reason first."""
    by_reason: dict[str, list[str]] = {}
    for axis, reason in frozen:
        by_reason.setdefault(reason, []).append(axis)
    return [FrozenRow(r, tuple(a)) for r, a in sorted(by_reason.items(), key=lambda item: -len(item[1]))]


@dataclass(frozen=True)
class AnalysisRow:
    """One quantity of an analysis."""

    probe: str
    quantity: str  # with the layer, if it is of one
    original: str
    fitted: str
    change: str
    whole: bool  # whether it is of the whole network


def analysis_rows(result: Record) -> list[AnalysisRow]:
    """What probes measured before and after."""
    found = []
    for row in result.analysis:
        name = f"{row.quantity} of {row.layer}" if row.layer else row.quantity
        change = "" if row.original is None or row.fitted is None else f"{row.fitted - row.original:+.4g}"
        original = show_reading(row.original, row.unit, row.original_interval)
        fitted = show_reading(row.fitted, row.unit, row.fitted_interval)
        found.append(AnalysisRow(row.probe, name, original, fitted, change, not row.layer))
    return found


def show_reading(value: float | None, unit: str, interval: Sequence[float | None] | None) -> str:
    """A number with its unit and its interval.

    >>> show_reading(91.25, "%", (90.0, 92.5))
    '91.25 % [90, 92.5]'
    """
    if value is None:
        return "not known"
    ends = [end for end in interval or () if end is not None]
    between = f" [{ends[0]:.4g}, {ends[1]:.4g}]" if len(ends) == 2 else ""
    return f"{value:.4g}{' ' + unit if unit else ''}{between}"


def epoch_rows(result: Record) -> list[EpochRow]:
    """The epochs of fine-tuning."""
    rows = []
    for count, e in enumerate(result.training, start=1):
        epoch = number(e.get("epoch"))
        values = (number(e.get(k)) for k in ("loss", "val", "lr", "seconds"))
        rows.append(EpochRow(count if epoch is None else int(epoch), *values))
    return rows


def trail_rows(result: Record) -> list[TrailRow]:
    """The rounds of the latency search."""
    return [TrailRow(i, row.macs_share, row.ratio) for i, row in enumerate(result.trail, start=1)]


def trail_limit(result: Record) -> float | None:
    """The limit on the latency ratio, if the budget has exactly one relative latency limit; else None."""
    limits = re.findall(r"latency\s*(?:<=|≤)\s*([0-9.]+)\s*%", result.asked.budget)
    return float(limits[0]) / 100 if len(limits) == 1 else None


def time_rows(result: Record) -> list[TimeRow]:
    """Seconds per step in the order of the run; if there are many steps, the shortest are summed as "the rest"."""
    seconds = {k: s for k, s in result.seconds.items() if k != "total"}
    total = sum(seconds.values())
    longest = sorted(seconds, key=lambda k: -seconds[k])[: COLOURS - 1 if len(seconds) > COLOURS else COLOURS]
    shown = {k: s for k, s in seconds.items() if k in longest}
    if rest := [s for k, s in seconds.items() if k not in longest]:
        shown["the rest"] = sum(rest)
    return [
        TimeRow(k.replace("_", " "), s, s / total if total else 0.0, f"{s:.1f} s", i)
        for i, (k, s) in enumerate(shown.items())
    ]


def latency_tiles(latency: Iterable[record.LatencyRow]) -> list[ChangeRow]:
    """Latency on every target, original against fitted."""
    return [
        ChangeRow(f"latency, {row.target}", row.original, row.fitted, row.ratio, show_percent(row.ratio))
        for row in latency_rows(latency)
    ]


def tile_rows(result: Record) -> list[ChangeRow]:
    """The numbers at the top of the report: latency, MACs, parameters and memory, as shares of the original."""
    counted = [row for row in counted_rows(result.counted) if row.label != COUNTED["bytes"]]
    return latency_tiles(result.latency) + counted


def recipe_rows(result: Record) -> list[tuple[str, str]]:
    """The fields of the recipe; names of nested fields contain dots."""
    return flat(result.asked.recipe)


def environment_rows(result: Record) -> list[tuple[str, str]]:
    """The machine and software of the run."""
    return flat(result.environment)


def file_rows(result: Record) -> list[tuple[str, str]]:
    """The files of the run: (kind, path)."""
    return list(result.files.items())


def short_name(name: str) -> str:
    """A group's name without ".weight" and ":0".

    >>> short_name("layer1.0.conv1.weight:0"), short_name("qkv.weight:0#2"), short_name("fc.weight:1")
    ('layer1.0.conv1', 'qkv#2', 'fc:1')
    """
    return re.sub(r"\.weight(?::0)?(?=$|#|:)", "", name)


def _clause(b: record.BudgetRow) -> str:
    place = f" @ {b.target}" if b.target else ""
    amount = f"{100 * b.limit:g} %" if b.relative else show_metric(b.metric, b.limit)
    return f"{b.metric} ≤ {amount}{place}"
