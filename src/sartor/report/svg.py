"""Charts of the report as inline SVG; CSS classes of the page's style sheet give the colours.

Every function returns one `<svg>` element as text, with all text escaped, or "" if there is nothing to draw.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from sartor.report import marks
from sartor.report.marks import WIDTH, nice_ticks
from sartor.report.rows import EpochRow, KeptRow, LatencyRow, QualityRow, TimeRow, TrailRow

MOST_BARS = 30  # up to this number of groups, each is drawn as a labelled bar; with more, as a column


def kept_bars(rows: Sequence[KeptRow]) -> str:
    """Units kept of every group in network order: labelled bars, or columns for more than MOST_BARS groups."""
    if not rows:
        return ""
    return _columns(rows) if len(rows) > MOST_BARS else _bars(rows)


def _bars(rows: Sequence[KeptRow]) -> str:
    label = min(300, 16 + 6.7 * max(len(r.layer) for r in rows))
    most, step, height = max(r.units for r in rows), 21, 13
    room = WIDTH - label - 150
    parts = []
    for i, row in enumerate(rows):
        y = 6 + i * step
        whole, stays = room * row.units / most, room * row.kept / most
        body = [
            marks.text(label - 10, y + 11, _cut_left(row.layer, 44), "end"),
            f'<rect class="whole" x="{label:.1f}" y="{y}" width="{whole:.1f}" height="{height}" rx="2"/>',
            f'<rect class="kept" x="{label:.1f}" y="{y}" width="{max(stays, 1):.1f}" height="{height}" rx="2"/>',
            marks.text(label + whole + 8, y + 11, f"{row.text}  ({100 * row.share:.0f} %)", "start", "soft"),
        ]
        parts.append(marks.group(body, _tip(row)))
    return marks.svg(12 + len(rows) * step, "Units kept of every group, in network order", parts)


def _columns(rows: Sequence[KeptRow]) -> str:
    left, top, height = 52, 14, 220
    room = WIDTH - left - 8
    ticks = nice_ticks(0, max(r.units for r in rows))
    most, slot = max(max(r.units for r in rows), ticks[-1]), room / len(rows)
    bar = max(1.0, slot * 0.72)
    parts = [marks.grid(top + height * (1 - t / most), left, WIDTH - 8, f"{t:g}") for t in ticks]
    for i, row in enumerate(rows):
        x = left + (i + 0.5) * slot - bar / 2
        whole, stays = height * row.units / most, max(height * row.kept / most, 1)
        body = [
            f'<rect class="whole" x="{x:.1f}" y="{top + height - whole:.1f}" width="{bar:.1f}" height="{whole:.1f}"/>',
            f'<rect class="kept" x="{x:.1f}" y="{top + height - stays:.1f}" width="{bar:.1f}" height="{stays:.1f}"/>',
        ]
        parts.append(marks.group(body, _tip(row)))
    foot = top + height + 20
    parts.append(marks.text(left, foot, "← input"))
    parts.append(
        marks.text((left + WIDTH) / 2, foot, f"{len(rows)} groups in network order; height = units", "middle", "soft")
    )
    parts.append(marks.text(WIDTH - 8, foot, "output →", "end"))
    return marks.svg(foot + 10, "Units kept of every group, in network order", parts)


def _tip(row: KeptRow) -> str:
    return f"{row.name}: {row.text} {row.kind} ({100 * row.share:.0f} %)"


def latency_strip(row: LatencyRow) -> str:
    """Samples of both networks on one axis: a dot for every run, a box for the quartiles, a bar for the median."""
    lanes = [
        ("original", "original", row.original_samples or (row.original_ms,), row.original_ms, row.original),
        ("fitted", "fitted", row.fitted_samples or (row.fitted_ms,), row.fitted_ms, row.fitted),
    ]
    left, right, top, lane = 84, WIDTH - 24, 12, 66
    ends = [_reach(values, median) for _, _, values, median, _ in lanes]
    low, high = min(e[0] for e in ends), max(e[1] for e in ends)
    low = 0.0 if low < 0.7 * high else low
    ticks = nice_ticks(low, high)
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def at(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    foot = top + 2 * lane + 4
    parts = [marks.upright(at(t), top, foot, f"{t:g}") for t in ticks]
    outside = 0
    for i, (name, look, values, median, text) in enumerate(lanes):
        middle = top + lane * (i + 0.5) + 6
        parts.append(marks.text(left - 14, middle + 4, name, "end"))
        inside = [v for v in values if low <= v <= high]
        outside += len(values) - len(inside)
        dots = "".join(
            f'<circle cx="{at(v):.1f}" cy="{middle + 15 * _jitter(k):.1f}" r="2"/>' for k, v in enumerate(inside)
        )
        parts.append(f'<g class="dots {look}">{dots}</g>')
        if len(inside) > 3:
            q = statistics.quantiles(inside, n=4)
            x, wide = at(q[0]), max(at(q[2]) - at(q[0]), 1.5)
            parts.append(
                f'<rect class="box {look}" x="{x:.1f}" y="{middle - 17:.1f}" width="{wide:.1f}" height="34" rx="3"/>'
            )
        x = at(median)
        parts.append(
            f'<line class="median {look}" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 21:.1f}" y2="{middle + 21:.1f}"/>'
        )
        anchor = "start" if x < left + 60 else "end" if x > right - 60 else "middle"
        parts.append(marks.text(x, middle - 25, text, anchor, "strong"))
    note = "milliseconds per run" + (f"; {outside} outliers are not shown" if outside else "")
    parts.append(marks.text((left + right) / 2, foot + 34, note, "middle", "soft"))
    return marks.svg(foot + 44, f"Latency on {row.target}: original {row.original}, fitted {row.fitted}", parts)


def _reach(values: Sequence[float], median: float) -> tuple[float, float]:
    """The range that is drawn: all samples without far outliers above the third quartile."""
    if len(values) < 4:
        return min(*values, median) * 0.95, max(*values, median) * 1.05
    q = statistics.quantiles(values, n=4)
    far = q[2] + 4 * max(q[2] - q[0], 0.02 * q[1])
    return max(0.0, min(values)), min(max(values), far)


def _jitter(k: int) -> float:
    """A value in [-1, 1] for the k-th dot: evenly spread and deterministic (multiples of the golden ratio)."""
    return 2 * ((k * 0.6180339887) % 1.0) - 1


def quality_steps(rows: Sequence[QualityRow], floor: float | None = None) -> str:
    """Quality after each step of the run; a dashed line marks the least quality allowed."""
    if len(rows) < 2:
        return ""
    left, right, top, height = 60, WIDTH - 60, 30, 170
    values = [r.value for r in rows] + ([floor] if floor is not None else [])
    low, high = marks.span(values)
    ticks = nice_ticks(low, high)
    if max(values) <= 100 < ticks[-1]:  # points out of a hundred
        high, ticks = 100.0, [t for t in ticks if t <= 100]
    low, high = min(low, ticks[0]), max(high, ticks[-1])

    def at(value: float) -> float:
        return top + height * (high - value) / (high - low)

    xs = [left + 60 + (right - left - 120) * i / (len(rows) - 1) for i in range(len(rows))]
    parts = [marks.grid(at(t), left, right, f"{t:g}") for t in ticks]
    if floor is not None:
        parts.append(f'<line class="limit" x1="{left}" x2="{right}" y1="{at(floor):.1f}" y2="{at(floor):.1f}"/>')
        parts.append(marks.text(right, at(floor) + 14, "least allowed", "end", "soft"))
    points = " ".join(f"{x:.1f},{at(r.value):.1f}" for x, r in zip(xs, rows))
    parts.append(f'<polyline class="line fitted" points="{points}"/>')
    for i, (x, row) in enumerate(zip(xs, rows)):
        look = "original" if i == 0 else "fitted"
        y = at(row.value)
        below = y - top < 14 or (0 < i < len(rows) - 1 and row.value < min(rows[i - 1].value, rows[i + 1].value))
        parts.append(f'<circle class="point {look}" cx="{x:.1f}" cy="{y:.1f}" r="5"/>')
        parts.append(marks.text(x, y + 22 if below and y < top + height - 20 else y - 12, row.text, "middle", "strong"))
        parts.append(marks.text(x, top + height + 28, row.step, "middle"))
    return marks.svg(
        top + height + 40, "Quality after each step: " + ", ".join(f"{r.step} {r.text}" for r in rows), parts
    )


def training_curve(rows: Sequence[EpochRow]) -> str:
    """Training loss and validation quality by epoch, side by side."""
    panels = [(name, [(r.epoch, v) for r in rows if (v := getattr(r, key)) is not None]) for name, key in
              (("training loss", "loss"), ("validation quality", "val"))]  # fmt: skip
    panels = [p for p in panels if len(p[1]) > 1]
    if not panels:
        return ""
    wide = (WIDTH - 40 * (len(panels) - 1)) / len(panels)
    parts = []
    for i, (name, points) in enumerate(panels):
        parts += _panel(name, points, left=i * (wide + 40) + 46, right=i * (wide + 40) + wide, look="fitted")
    return marks.svg(216, "Training curve: " + " and ".join(p[0] for p in panels) + " by epoch", parts)


def _panel(name: str, points: Sequence[tuple[float, float]], *, left: float, right: float, look: str) -> list[str]:
    top, height = 30, 140
    low, high = marks.span([y for _, y in points])
    ticks = nice_ticks(low, high, 4)
    low, high = min(low, ticks[0]), max(high, ticks[-1])
    first, last = points[0][0], points[-1][0]

    def at(x: float, y: float) -> tuple[float, float]:
        return left + 8 + (right - left - 16) * (x - first) / max(last - first, 1), top + height * (high - y) / (
            high - low
        )

    parts = [marks.text(left, 14, name, "start", "strong")]
    parts += [marks.grid(at(first, t)[1], left, right, f"{t:g}") for t in ticks]
    dots = [at(x, y) for x, y in points]
    parts.append(f'<polyline class="line {look}" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in dots)}"/>')
    if len(points) <= 40:
        parts += [f'<circle class="point {look}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in dots]
    parts.append(marks.text(dots[0][0], top + height + 20, f"{first:g}", "middle"))
    parts.append(marks.text(dots[-1][0], top + height + 20, f"{last:g}", "middle"))
    parts.append(marks.text((left + right) / 2, top + height + 20, "epoch", "middle", "soft"))
    return parts


def trail_chart(rows: Sequence[TrailRow], limit: float | None = None) -> str:
    """The rounds of the latency search: share of the MACs against measured latency ratio, numbered in order."""
    if len(rows) < 2:
        return ""
    left, right, top, height = 60, WIDTH - 30, 18, 190
    xs, ys = [r.macs_share for r in rows], [r.ratio for r in rows] + ([limit] if limit is not None else [])
    (x0, x1), (y0, y1) = marks.span(xs), marks.span(ys)
    x_ticks, y_ticks = nice_ticks(x0, x1), nice_ticks(y0, y1, 4)
    x0, x1, y0, y1 = min(x0, x_ticks[0]), max(x1, x_ticks[-1]), min(y0, y_ticks[0]), max(y1, y_ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * (x - x0) / (x1 - x0), top + height * (y1 - y) / (y1 - y0)

    parts = [marks.grid(at(x0, t)[1], left, right, f"{t:g}×") for t in y_ticks]
    parts += [marks.upright(at(t, y0)[0], top, top + height, f"{100 * t:.3g} %") for t in x_ticks]
    if limit is not None:
        y = at(x0, limit)[1]
        parts.append(f'<line class="limit" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(marks.text(left + 6, y - 6, f"limit {limit:g}×", "start", "soft"))
    dots = [at(r.macs_share, r.ratio) for r in rows]
    parts.append(f'<polyline class="line faint" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in dots)}"/>')
    for (x, y), row in zip(dots, rows):
        look = "fitted" if row is rows[-1] else "original"
        parts.append(f'<circle class="point {look}" cx="{x:.1f}" cy="{y:.1f}" r="9"/>')
        parts.append(marks.text(x, y + 4, str(row.round), "middle", "inverse"))
    parts.append(marks.text((left + right) / 2, top + height + 40, "share of the MACs kept", "middle", "soft"))
    return marks.svg(top + height + 50, "Latency ratio by share of the MACs, round by round", parts)


def time_bar(rows: Sequence[TimeRow]) -> str:
    """Time of every step, as parts of one bar."""
    shown = [r for r in rows if r.seconds > 0]
    if not shown:
        return ""
    parts, x = [], 0.0
    for row in shown:
        wide = WIDTH * row.share
        inner = max(wide - 1.5, 0.5)
        body = [f'<rect class="part p{row.colour}" x="{x:.1f}" y="2" width="{inner:.1f}" height="22" rx="2"/>']
        if wide > 9 * len(row.step) + 14:
            body.append(marks.text(x + 8, 17, row.step, "start", "inverse"))
        parts.append(marks.group(body, f"{row.step}: {row.text}"))
        x += wide
    return marks.svg(28, "Time by step: " + ", ".join(f"{r.step} {r.text}" for r in shown), parts)


def _cut_left(words: str, most: int) -> str:
    return words if len(words) <= most else "…" + words[-most + 1 :]
