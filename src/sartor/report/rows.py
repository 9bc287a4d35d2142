"""A result as rows that are ready to be shown; templates and charts compute nothing themselves.

Every function takes the result object of a run (`read_result`). A part that is missing, in an unfinished or older run,
gives no rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sartor.report.fields import (
    COUNTED,
    Result,
    flat,
    mapping,
    number,
    objects,
    percent_or_blank,
    plural,
    share_of,
    show_metric,
    show_points,
    thin,
)
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
    met: bool


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


def budget_rows(result: Result) -> list[BudgetRow]:
    """The limits of the budget and the values reached.

    In the result, latencies are in seconds; `limit` is a clause, a number in the metric's unit, or a share if
    `relative` is true.
    """
    rows = []
    timed = {
        row.target: row.ratio for row in latency_rows(result)
    }  # the median of pairwise ratios, not the ratio of two medians
    for b in objects(result, "budget"):
        metric = str(b.get("metric", "?"))
        original, value = number(b.get("original")), number(b.get("value"))
        share = value / original if original and value is not None and metric != "drop" else None
        share = timed.get(str(b.get("target")), share) if metric == "latency" else share
        rows.append(
            BudgetRow(
                clause=_clause(b, metric),
                original=show_metric(metric, original),
                fitted=show_metric(metric, value),
                share="" if share is None else show_percent(share),
                met=bool(b.get("met")),
            )
        )
    return rows


def counted_rows(result: Result) -> list[ChangeRow]:
    """The counted costs of both networks."""
    rows = []
    for metric, label in COUNTED.items():
        pair = mapping(mapping(result, "counted"), metric)
        original, fitted, share = number(pair.get("original")), number(pair.get("fitted")), share_of(pair)
        if original is not None and fitted is not None:
            text = "" if share is None else show_percent(share)
            rows.append(ChangeRow(label, show_metric(metric, original), show_metric(metric, fitted), share, text))
    return rows


def latency_rows(result: Result) -> list[LatencyRow]:
    """Latency on every target.

    In the result, `samples` of an entry is {"original_ms": [..], "fitted_ms": [..]}, with one number per timed run.
    """
    rows = []
    for item in objects(result, "latency"):
        original, fitted, ratio = (number(item.get(k)) for k in ("original_ms", "fitted_ms", "ratio"))
        if original is None or fitted is None:
            continue
        ratio = fitted / original if ratio is None and original else ratio or 0.0
        ends = [e for e in map(number, item.get("interval") or ()) if e is not None]
        samples = mapping(item, "samples")
        rows.append(
            LatencyRow(
                target=str(item.get("target", "")),
                original=show_seconds(original / 1e3),
                fitted=show_seconds(fitted / 1e3),
                ratio=ratio,
                text=f"{ratio:.3f}",
                interval=f"{ends[0]:.3f} to {ends[1]:.3f}" if len(ends) == 2 else "",
                original_ms=original,
                fitted_ms=fitted,
                original_samples=thin(samples.get("original_ms")),
                fitted_samples=thin(samples.get("fitted_ms")),
            )
        )
    return rows


def quality_rows(result: Result, part: str = "quality") -> list[QualityRow]:
    """Quality after each step of the run, on validation data or the "test" part; steps without a value are left out."""
    quality = mapping(result, part)
    before = number(quality.get("original"))
    rows = []
    for key, step in STEPS.items():
        value = number(quality.get(key))
        if value is not None:
            change = "" if before is None or key == "original" else f"{value - before:+.2f}"
            rows.append(QualityRow(step, value, show_points(value), change))
    return rows


def quality_floor(result: Result) -> float | None:
    """The least quality that the budget allows; None if it does not limit the drop."""
    before = number(mapping(result, "quality").get("original"))
    text = str(mapping(result, "asked").get("budget") or "")
    drop = re.search(r"drop\s*(?:<=|≤)\s*([0-9.]+)", text)
    return before - float(drop[1]) if drop and before is not None else None


def kept_rows(result: Result) -> list[KeptRow]:
    """Groups in network order, with the units kept of each."""
    rows = []
    for g in objects(result, "groups"):
        units = int(number(g.get("units")) or 0)
        if units <= 0:
            continue
        kept = number(g.get("kept"))
        kept = units if kept is None else int(kept)
        name = str(g.get("name", ""))
        rows.append(
            KeptRow(
                name=name,
                layer=short_name(name),
                kind=str(g.get("kind") or ""),
                units=units,
                kept=kept,
                share=kept / units,
                text=f"{kept} of {units}",
                mixes=str(g.get("mixes") or ""),
                members=_members(g.get("members")),
                macs_share=percent_or_blank(g.get("macs_share")),
                params_share=percent_or_blank(g.get("params_share")),
            )
        )
    return rows


def frozen_rows(result: Result) -> list[FrozenRow]:
    """Frozen axes by reason, the most frequent reason first."""
    by_reason: dict[str, list[str]] = {}
    for f in objects(result, "frozen"):
        by_reason.setdefault(str(f.get("reason") or "no reason was recorded"), []).append(str(f.get("axis", "")))
    return [FrozenRow(r, tuple(a)) for r, a in sorted(by_reason.items(), key=lambda item: -len(item[1]))]


def epoch_rows(result: Result) -> list[EpochRow]:
    """The epochs of fine-tuning."""
    rows = []
    for count, e in enumerate(objects(result, "training"), start=1):
        epoch = number(e.get("epoch"))
        values = (number(e.get(k)) for k in ("loss", "val", "lr", "seconds"))
        rows.append(EpochRow(count if epoch is None else int(epoch), *values))
    return rows


def trail_rows(result: Result) -> list[TrailRow]:
    """The rounds of the latency search."""
    rows: list[TrailRow] = []
    for step in objects(result, "trail"):
        share, ratio = number(step.get("macs_share")), number(step.get("ratio"))
        if share is not None and ratio is not None:
            rows.append(TrailRow(len(rows) + 1, share, ratio))
    return rows


def trail_limit(result: Result) -> float | None:
    """The limit on the latency ratio, if the budget has exactly one relative latency limit; else None."""
    limits = re.findall(r"latency\s*(?:<=|≤)\s*([0-9.]+)\s*%", str(mapping(result, "asked").get("budget") or ""))
    return float(limits[0]) / 100 if len(limits) == 1 else None


def time_rows(result: Result) -> list[TimeRow]:
    """Seconds per step in the order of the run; if there are many steps, the shortest are summed as "the rest"."""
    seconds = {
        str(k): s for k, v in mapping(result, "seconds").items() if k != "total" and (s := number(v)) is not None
    }
    total = sum(seconds.values())
    longest = sorted(seconds, key=lambda k: -seconds[k])[: COLOURS - 1 if len(seconds) > COLOURS else COLOURS]
    shown = {k: s for k, s in seconds.items() if k in longest}
    if rest := [s for k, s in seconds.items() if k not in longest]:
        shown["the rest"] = sum(rest)
    return [
        TimeRow(k.replace("_", " "), s, s / total if total else 0.0, f"{s:.1f} s", i)
        for i, (k, s) in enumerate(shown.items())
    ]


def latency_tiles(result: Result) -> list[ChangeRow]:
    """Latency on every target, original against fitted."""
    return [
        ChangeRow(f"latency, {row.target}", row.original, row.fitted, row.ratio, show_percent(row.ratio))
        for row in latency_rows(result)
    ]


def tile_rows(result: Result) -> list[ChangeRow]:
    """The numbers at the top of the report: latency, MACs, parameters and memory, as shares of the original."""
    return latency_tiles(result) + [row for row in counted_rows(result) if row.label != COUNTED["bytes"]]


def recipe_rows(result: Result) -> list[tuple[str, str]]:
    """The fields of the recipe; names of nested fields contain dots."""
    return flat(mapping(mapping(result, "asked"), "recipe"))


def environment_rows(result: Result) -> list[tuple[str, str]]:
    """The machine and software of the run."""
    return flat(mapping(result, "environment"))


def file_rows(result: Result) -> list[tuple[str, str]]:
    """The files of the run: (kind, path)."""
    return [(str(k), str(v)) for k, v in mapping(result, "files").items() if v]


def short_name(name: str) -> str:
    """A group's name without ".weight" and ":0".

    >>> short_name("layer1.0.conv1.weight:0"), short_name("qkv.weight:0#2"), short_name("fc.weight:1")
    ('layer1.0.conv1', 'qkv#2', 'fc:1')
    """
    return re.sub(r"\.weight(?::0)?(?=$|#|:)", "", name)


def _clause(b: Mapping[str, Any], metric: str) -> str:
    limit = b.get("limit")
    place = f" @ {b['target']}" if b.get("target") else ""
    if isinstance(limit, str):
        return limit if "<" in limit or "≤" in limit else f"{metric} ≤ {limit}{place}"
    value = number(limit)
    if value is None:
        return f"{metric}{place}"
    amount = f"{100 * value:g} %" if b.get("relative") else show_metric(metric, value)
    return f"{metric} ≤ {amount}{place}"


def _members(members: Any) -> tuple[str, ...]:
    if isinstance(members, int):
        return (plural(members, "tensor"),)
    if not isinstance(members, Sequence) or isinstance(members, str):
        return ()
    return tuple(
        f"{m.get('tensor')}:{m.get('dim')} ({m.get('role')})" if isinstance(m, Mapping) else str(m) for m in members
    )
