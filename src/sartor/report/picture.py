"""A run as one SVG picture, for pages that cannot contain the report: headline, units kept, quality, latency."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from sartor.report import rows, sentences, svg
from sartor.report.run_reader import as_record
from sartor.run.record import Record

_INNER = re.compile(r'^<svg viewBox="0 0 [\d.]+ (?P<height>[\d.]+)"[^>]*>(?P<inner>.*)</svg>$', re.DOTALL)
_MARGIN, _GAP, _HEAD, _TITLE = 24, 24, 58, 20
_STYLE = """
svg { --paper: #fbfaf7; --ink: #1f2328; --soft: #6b7076; --grid: #ebe8e1; --whole: #e6e2d8; --limit: #b4552d;
  --fitted: #0f766e; --fitted-pale: #0f766e2b; --original: #9a968c; --original-pale: #9a968c33;
  font: 12.5px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { svg { --paper: #16181b; --ink: #e8e6e1; --soft: #9b9fa5; --grid: #2a2e33;
  --whole: #34383e; --limit: #e0916c; --fitted: #4fb8a8; --fitted-pale: #4fb8a82e; --original: #8a8c8f;
  --original-pale: #8a8c8f33; } }
.paper { fill: var(--paper); } text { fill: var(--ink); } text.soft { fill: var(--soft); }
text.strong { font-weight: 600; } text.head { font-size: 20px; font-weight: 600; }
.grid { stroke: var(--grid); } .limit { stroke: var(--limit); stroke-width: 1.5; stroke-dasharray: 5 4; }
.whole { fill: var(--whole); } .kept { fill: var(--fitted); } .line { fill: none; stroke-width: 2; }
.line.fitted { stroke: var(--fitted); } .line.faint { stroke: var(--original); stroke-width: 1; }
.point { stroke: var(--paper); stroke-width: 2; } .point.fitted { fill: var(--fitted); }
.point.original { fill: var(--original); } .dots { opacity: .4; } .dots.fitted { fill: var(--fitted); }
.dots.original { fill: var(--original); } .box.fitted { fill: var(--fitted-pale); stroke: var(--fitted); }
.box.original { fill: var(--original-pale); stroke: var(--original); } .median { stroke-width: 3; }
.median.fitted { stroke: var(--fitted); } .median.original { stroke: var(--original); }
"""


def picture(run: Record | Mapping[str, Any]) -> str:
    """One self-contained SVG, in light or dark colours as the reader's system prefers.

    Args:
        run: a record, or the object of `fit --json`.
    """
    result = as_record(run)
    panels = [
        ("Units kept of every group", svg.kept_bars(rows.kept_rows(result))),
        (
            f"{sentences.quality_name(result).capitalize()} after each step",
            svg.quality_steps(rows.quality_rows(result.quality), rows.quality_floor(result)),
        ),
        *(
            (f"Latency on {row.target}, timed in turns", svg.latency_strip(row))
            for row in rows.latency_rows(result.latency)
        ),
    ]
    y = float(_HEAD)
    parts = []
    for title, panel in panels:
        match = _INNER.match(panel)
        if match:
            parts.append(f'<text class="soft" x="{_MARGIN}" y="{y + 8:.0f}">{escape(title)}</text>')
            y += _TITLE
            parts.append(f'<g transform="translate({_MARGIN} {y:.0f})">{match["inner"]}</g>')
            y += float(match["height"]) + _GAP
    width, height = svg.WIDTH + 2 * _MARGIN, y - _GAP + _MARGIN
    words = escape(sentences.headline(result))
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" width="{width}" role="img" aria-label="{words}" '
        f'xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>'
        f'<rect class="paper" width="{width}" height="{height:.0f}" rx="10"/>'
        f'<text class="head" x="{_MARGIN}" y="34">{words}</text>{"".join(parts)}</svg>\n'
    )


def write_picture(run: str | Path | Record | Mapping[str, Any], path: str | Path) -> Path:
    """Write the picture of a run folder, a record or the object of `fit --json`, atomically."""
    from sartor.export.files import atomic_write

    atomic_write(path, picture(as_record(run)))
    return Path(path)
