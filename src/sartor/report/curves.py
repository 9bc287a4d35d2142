"""Line charts with one line per method: quality against the cost of a network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sartor.report import marks
from sartor.report.marks import WIDTH, nice_ticks

COLOURS = 8  # in the style sheet; further lines are dashed, then dotted
_NAMED = 10  # up to this number of lines, each is labelled at its start; with more, legend and tooltips name them
_LEFT, _RIGHT, _TOP, _HEIGHT = 64, WIDTH - 30, 18, 300
_STEP = 15  # least distance between labels


@dataclass(frozen=True)
class Line:
    """The points of one method, in any order."""

    name: str
    points: tuple[tuple[float, float, str], ...]  # x, y, tooltip
    look: int  # number of its colour and dashes, see `look_of`


def look_of(i: int) -> str:
    """CSS classes of the i-th line.

    >>> look_of(0), look_of(9)
    ('c0 d0', 'c1 d1')
    """
    return f"c{i % COLOURS} d{i // COLOURS % 3}"


def curves(
    lines: Sequence[Line],
    *,
    title: str,
    across: str,
    original: float | None = None,
    logarithmic: bool = False,
    percent: bool = False,
) -> str:
    """Values against a share of the original's cost, as SVG; "" if no line has a point.

    Args:
        lines: x is a share of the original's cost, y the value.
        title: for screen readers.
        across: label of the x axis.
        original: value of the original, drawn as a horizontal line.
        logarithmic: whether the y axis is; values that are not positive are drawn at its lower end.
        percent: whether values are shares, labelled in per cent.
    """
    lines = [line for line in lines if line.points]
    xs, ys = [x for line in lines for x, _, _ in line.points], [y for line in lines for _, y, _ in line.points]
    if not xs:
        return ""
    x_ticks = [t for t in nice_ticks(max(0.0, min(xs) - 0.12), max(1.0, *xs)) if t >= 0]
    x0, x1 = x_ticks[0], x_ticks[-1]
    y_ticks = _levels(ys) if logarithmic else _ticks(ys, original)
    scale = (lambda v: math.log10(max(v, y_ticks[0]))) if logarithmic else (lambda v: v)
    y0, y1 = scale(y_ticks[0]), scale(y_ticks[-1])

    def at(x: float, y: float) -> tuple[float, float]:
        return _LEFT + (_RIGHT - _LEFT) * (x - x0) / (x1 - x0), _TOP + _HEIGHT * (y1 - scale(y)) / (y1 - y0)

    foot = _TOP + _HEIGHT
    parts = [marks.grid(at(x0, t)[1], _LEFT, _RIGHT, f"{100 * t:.3g} %" if percent else f"{t:.4g}") for t in y_ticks]
    parts += [marks.upright(at(t, y_ticks[0])[0], _TOP, foot, f"{100 * t:.3g} %") for t in x_ticks]
    if original is not None:
        y = at(x0, original)[1]
        parts.append(f'<line class="level" x1="{_LEFT}" x2="{_RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(marks.text(_RIGHT, y - 6, f"original {original:.2f}", "end", "soft"))
    starts = []
    for line in lines:
        placed = [(*at(x, y), tip) for x, y, tip in sorted(line.points)]
        parts.append(_drawn(line, placed))
        starts.append((line.name, placed[0][0], placed[0][1]))
    if len(lines) <= _NAMED:
        names = [marks.text(x - 10, y + 4, name, "end") for name, x, y in _spread(starts)]
        parts.append(f'<g class="names">{"".join(names)}</g>')
    parts.append(marks.text((_LEFT + _RIGHT) / 2, foot + 38, across, "middle", "soft"))
    return marks.svg(foot + 48, title, parts)


def _drawn(line: Line, placed: Sequence[tuple[float, float, str]]) -> str:
    look = look_of(line.look)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y, _ in placed)
    dots = [
        marks.group([f'<circle class="dot {look}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'], tip) for x, y, tip in placed
    ]
    return f'<polyline class="curve {look}" points="{points}"/>{"".join(dots)}'


def _ticks(values: Sequence[float], original: float | None) -> list[float]:
    low, high = marks.span([*values, *([] if original is None else [original])])
    ticks = nice_ticks(low, high)
    if max([*values, original or 0.0]) <= 100 < ticks[-1]:  # points out of a hundred
        ticks = [t for t in ticks if t <= 100]
    return ticks


def _levels(values: Sequence[float]) -> list[float]:
    """Ticks of a logarithmic axis around the positive values: 1, 2, 5, 10, ...; powers of ten if there are many."""
    positive = [v for v in values if v > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    levels = [s * 10.0**k for k in range(low, max(high, low + 1)) for s in steps] + [10.0 ** max(high, low + 1)]
    first = max((i for i, v in enumerate(levels) if v <= min(positive) * 1.000001), default=0)
    last = min((i for i, v in enumerate(levels) if v >= max(positive) * 0.999999), default=len(levels) - 1)
    return levels[first : max(last, first + 1) + 1]


def _spread(starts: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """Labels (name, x, y) moved apart so that none covers another, in the order of their heights."""
    placed: list[tuple[str, float, float]] = []
    for name, x, y in sorted(starts, key=lambda s: s[2]):
        placed.append((name, x, max(y, placed[-1][2] + _STEP) if placed else y))
    over = placed[-1][2] - (_TOP + _HEIGHT)
    if over > 0:  # labels below the chart move up again
        low = placed[-1][2] - over
        for i in range(len(placed) - 1, -1, -1):
            name, x, y = placed[i]
            placed[i] = (name, x, min(y, low))
            low = placed[i][2] - _STEP
    return placed
