"""`sartor bench alignment`: which widths a target likes, on blocks of layers with one width that varies.

Every block reads and writes tensors of a fixed, aligned width; its inner width is the one that varies. The time of each
width is compared in turns with that of the first one. `sartor.allocate.alignment` rests on this table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from sartor.measure import compare_afresh, default_target, environment, prepare
from sartor.seed import seeded
from sartor.studies.grid import Grid, Part, machine
from sartor.studies.registry import Option, Row, Study, study
from sartor.studies.study_run import Case, StudyRun
from sartor.types import Effort

EFFORT = Effort(sessions=1, precision=0.02, min_seconds=0.1, max_seconds=1.0)
LESS = (0, 1, 2, 4, 8, 12, 16, 32)  # units fewer than the first width


@dataclass(frozen=True)
class Block:
    """Layers around one width."""

    width: int  # the first one
    make: Callable[[int], nn.Module]
    shape: tuple[int, ...]  # of the input


class _Residual(nn.Module):
    """Two residual branches on a stream of the varying width."""

    def __init__(self, width: int):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, 192, 1), nn.ReLU(), nn.Conv2d(192, width, 1)) for _ in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for branch in self.branches:
            x = x + branch(x)
        return x


def _inverted(width: int) -> nn.Module:
    depthwise = nn.Conv2d(width, width, 5, padding=2, groups=width)
    return nn.Sequential(nn.Conv2d(80, width, 1), nn.ReLU6(), depthwise, nn.ReLU6(), nn.Conv2d(width, 80, 1))


def _convolutions(size: int, width: int) -> nn.Module:
    pad = size // 2
    return nn.Sequential(nn.Conv2d(128, width, size, padding=pad), nn.ReLU(), nn.Conv2d(width, 128, size, padding=pad))


def _linear(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(320, width), nn.GELU(), nn.Linear(width, 320))


BLOCKS = {
    "inverted residual": Block(480, _inverted, (1, 80, 14, 14)),
    "1x1 convolutions": Block(128, partial(_convolutions, 1), (1, 128, 28, 28)),
    "3x3 convolutions": Block(128, partial(_convolutions, 3), (1, 128, 28, 28)),
    "residual stream": Block(48, _Residual, (1, 3, 28, 28)),
    "linear layers": Block(640, _linear, (1, 197, 320)),
}


@study("alignment", marker="alignment", key=("target", "block", "width"), source="sartor")
@dataclass(frozen=True, kw_only=True)
class Alignment(Study):
    """Time of blocks of layers against one width in them: which multiples of channels a target likes."""

    target: Annotated[str | None, Option("Where to measure; default: as `sartor fit` chooses.")] = None

    def rows(self, run: StudyRun) -> Iterator[Row]:
        """One row for each block and width."""
        target = self.target or default_target()
        yield from run.rows_of(
            Case({"target": target, "block": name, "width": block.width - less}, partial(_row, block, less, target))
            for name, block in BLOCKS.items() for less in LESS
        )  # fmt: skip

    def parts(self, answer: Mapping[str, Any]) -> Sequence[Part]:
        """A line for each block, a column for each number of units fewer."""
        rows = answer["rows"]
        lines = []
        for name in dict.fromkeys(r["block"] for r in rows):
            by_width = {r["width"]: r for r in rows if r["block"] == name}
            first = BLOCKS[name].width
            lines.append([name, str(first)] + [_ratio(by_width.get(first - less)) for less in LESS[1:]])
        heads = ["block", "n", *(f"n - {less}" for less in LESS[1:])]
        targets = ", ".join(dict.fromkeys(r["target"] for r in rows))
        about = machine(answer.get("environment") or environment(), ("torch", "onnxruntime"))
        return [f"Time relative to n units, on {targets}; {about}.", Grid(heads, lines, left=1)]


def _row(block: Block, less: int, target: str) -> dict[str, Any]:
    with seeded(0), torch.random.fork_rng(devices=[]):
        first, other = (block.make(w).eval() for w in (block.width, block.width - less))
        example = torch.randn(block.shape)
    c = compare_afresh(lambda: prepare(first, example, target), lambda: prepare(other, example, target), EFFORT)
    return {"ratio": c.ratio, "interval": c.interval}


def _ratio(row: Row | None) -> str:
    return "–" if row is None else f"{row['ratio']:.2f}"
