"""Elements of charts as SVG: axes, lines and text; all text is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

WIDTH = 860


def nice_ticks(low: float, high: float, about: int = 5) -> list[float]:
    """About `about` round numbers that cover [low, high].

    >>> nice_ticks(0, 64)
    [0.0, 20.0, 40.0, 60.0, 80.0]
    """
    if not high > low:
        high = low + (abs(low) or 1.0)
    raw = (high - low) / max(about - 1, 1)
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(s * size for s in (1, 2, 2.5, 5, 10) if s * size >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def span(values: Sequence[float]) -> tuple[float, float]:
    """The range of an axis that shows all values with a margin; it begins at 0 if the values are near 0."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.02 * abs(high) or 1.0
    return low - margin if low < 0 or low > margin else 0.0, high + margin


def svg(height: float, title: str, parts: Sequence[str]) -> str:
    """The `<svg>` element, WIDTH wide; the title is for screen readers."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def group(parts: Sequence[str], tip: str) -> str:
    """Parts with one tooltip."""
    return f"<g><title>{escape(tip)}</title>{''.join(parts)}</g>"


def text(x: float, y: float, words: str, anchor: str = "start", look: str = "") -> str:
    """A text, escaped."""
    look = f' class="{look}"' if look else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{look}>{escape(words)}</text>'


def grid(y: float, left: float, right: float, label: str) -> str:
    """A horizontal grid line, labelled on the left."""
    return f'<line class="grid" x1="{left:.1f}" x2="{right:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>' + text(
        left - 8, y + 4, label, "end", "soft"
    )


def upright(x: float, top: float, foot: float, label: str) -> str:
    """A vertical grid line, labelled below."""
    return f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{foot:.1f}"/>' + text(
        x, foot + 16, label, "middle", "soft"
    )
