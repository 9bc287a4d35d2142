"""A chart of the latency of one operator by width: timed points and the curve interpolated between them."""

from __future__ import annotations

from collections.abc import Sequence

from sartor.report import marks
from sartor.report.marks import WIDTH, nice_ticks

STYLE = (
    "<style>svg{font:12.5px system-ui,sans-serif;background:#fbfaf7}text{fill:#1f2328}text.soft{fill:#6b7076}"
    ".grid{stroke:#ebe8e1}.line{fill:none;stroke-width:1.5;stroke:#0f766e}.point{fill:#b4552d}</style>"
)


def staircase(
    title: str, line: Sequence[tuple[int, float]], timed: Sequence[tuple[int, float]], *, axis: str = "width"
) -> str:
    """One self-contained SVG.

    Args:
        title: of the chart.
        line: (width, microseconds) at every width, ascending.
        timed: (width, microseconds) at the widths that were timed.
        axis: label of the x axis.
    """
    if not line:
        return ""
    left, right, top, height = 64, WIDTH - 24, 34, 260
    y_ticks = nice_ticks(0, max(y for _, y in (*line, *timed)))
    x_ticks = [t for t in nice_ticks(line[0][0], line[-1][0], 8) if line[0][0] <= t <= line[-1][0]]
    x0, x1, y1 = line[0][0], max(line[-1][0], line[0][0] + 1), y_ticks[-1]

    def at(x: float, y: float) -> tuple[float, float]:
        return left + (right - left) * (x - x0) / (x1 - x0), top + height * (1 - y / y1)

    parts = [STYLE, marks.text(left, 18, title)]
    parts += [marks.grid(at(x0, t)[1], left, right, f"{t:g}") for t in y_ticks]
    parts += [marks.upright(at(t, 0)[0], top, top + height, f"{t:g}") for t in x_ticks]
    dots = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*p) for p in line))
    parts.append(f'<polyline class="line" points="{dots}"/>')
    parts += [f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in (at(*p) for p in timed)]
    parts.append(
        marks.text((left + right) / 2, top + height + 36, f"{axis} (vertical axis: microseconds)", "middle", "soft")
    )
    return marks.svg(top + height + 46, title, parts) + "\n"
